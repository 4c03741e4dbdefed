"""The temporary folder of one app, and the removal of folders whose app is gone.

Whose app lives is told by locks, not by process ids: containers and hosts that share the temporary folder do not see
each other's processes. Whoever uses a folder holds a shared lock on the file `lock` in it. Whoever gets the exclusive
lock may delete the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wanvae_app.jobs import folder_keeper
from wanvae_app.jobs.folder_keeper import LOCK

log = logging.getLogger(__name__)

MADE_WITHIN = 60.0  # seconds in which whoever makes a folder has locked it
TORCHRUN_LOGS = "torchelastic_"  # prefix of folders that torchrun makes and never deletes
_locks: list[int] = []  # file descriptors; the locks last as long as this process


def private_folder(pid: int, keep: bool, logs: Path | None = None, home: Path | None = None) -> Path:
    """Return a temporary folder for the app of the process `pid`, which only this user can enter.

    It lies in the system's temporary folder, or hidden in `home`.

    This process holds the folder's lock until it ends. A keeper holds it as long as `pid` lives, and then deletes the
    folder, and torchrun's `logs` with it. If `keep`, the content stays, as after a restart of the ranks; else the
    folder is empty. Folders of apps that are gone are deleted. If others could write to the folder, one with a random
    name is returned instead. Raises OSError if none can be made.
    """
    prefix = f"{'.' if home is not None else ''}wanvae-{os.getuid()}-"
    if home is None:
        home = Path(
            os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()
        )  # most that it holds are uploads
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{prefix}{pid}-{_instance(pid)}"
    for other in home.glob(f"{prefix}*-*"):
        if other != path:
            _delete_if_abandoned(other)
    if not keep:
        shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        is_private = status.st_uid == os.getuid() and not status.st_mode & 0o077
        if not (stat.S_ISDIR(status.st_mode) and is_private):
            raise PermissionError("others can write to it")
    except OSError as error:
        log.warning("%s cannot be used: %s", path, error)
        path = Path(tempfile.mkdtemp(prefix=f"{prefix}{pid}-", dir=home))
    _hold(path, pid, logs)
    return path


def _hold(path: Path, pid: int, logs: Path | None) -> None:
    """Lock the folder for the life of this process, and start a keeper unless there is one."""
    try:
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_kept = False
        except BlockingIOError:
            is_kept = True
        fcntl.flock(lock, fcntl.LOCK_SH)
        _locks.append(lock)
        if is_kept:
            return
        if logs is not None:
            with contextlib.suppress(OSError):  # a full disk
                os.write(
                    lock, os.fsencode(logs)
                )  # for whoever deletes this folder after a SIGKILL of everything
        # Isolated, without site-packages: a small process that starts in no time.
        command = [sys.executable, "-I", "-S", folder_keeper.__file__, str(pid), str(path)]
        keeper = subprocess.Popen(
            [*command, *([str(logs)] if logs is not None else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # neither Ctrl-C nor a terminal that is closed reaches it
            cwd="/",
        )
        assert keeper.stdout is not None
        with keeper.stdout as pipe:
            pipe.read(1)  # it has the lock
    except OSError as error:  # a full disk, or a file system without locks
        log.warning("%s is not locked: %s", path, error.strerror)


def _open_lock(path: Path) -> int:
    """Open the folder's lock. A new one gets its name when it is locked: nobody else may take it for abandoned."""
    try:
        return os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        new = path / f"{LOCK}.new"
        lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # no locks here: nobody can tell that it is abandoned either
            fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(path / LOCK)
        return lock


def _delete_if_abandoned(path: Path) -> None:
    """Delete a folder of this user's, and torchrun's folder with it, if nobody holds its lock."""
    try:
        status = path.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            return
        try:
            lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if time.time() - status.st_mtime > MADE_WITHIN:
                path.rmdir()  # fails if there is something in it, as on a disk that was too full for a lock
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            logs = Path(os.fsdecode(os.read(lock, 4096)))
            if logs.name.startswith(TORCHRUN_LOGS) and logs.parent == Path(tempfile.gettempdir()):
                shutil.rmtree(logs, ignore_errors=True)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
    except OSError as error:  # somebody uses it, or the file system has no locks
        log.debug("%s stays: %s", path, error)


def _instance(pid: int) -> str:
    """A name for the life of process `pid` that no other process has, in any container or host."""
    facts = [socket.gethostname(), str(pid)]
    for file in ("/proc/sys/kernel/random/boot_id", f"/proc/{pid}/stat"):
        try:
            text = Path(file).read_text()
        except OSError:  # not Linux
            continue
        facts.append(text.rpartition(")")[2].split()[19] if file.endswith("stat") else text)  # start time
    try:
        facts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        facts.append("")
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:12]
