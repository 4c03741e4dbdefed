"""The temporary folder of one app: locked while the app lives, deleted by its keeper afterwards, closed to others."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.app_runner import surroundings, wait_for

from wanvae_app.jobs import folder_keeper
from wanvae_app.jobs import private_folder as module
from wanvae_app.jobs.folder_keeper import LOCK
from wanvae_app.jobs.private_folder import private_folder

USE = """
import os, sys, time
from pathlib import Path
from wanvae_app.jobs.private_folder import private_folder
owner, keep = int(sys.argv[1]) or os.getpid(), sys.argv[2] == "keep"
print(private_folder(owner, keep, Path(sys.argv[3])), flush=True)
time.sleep(100)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    yield tmp_path
    for lock in module._locks:
        os.close(lock)
    module._locks.clear()


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process in the place of torchrun."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


def use(pid: int, keep: bool, logs: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process, in the place of rank 0, that uses the folder of process `pid`, 0: its own."""
    command = [sys.executable, "-c", USE, str(pid), "keep" if keep else "", str(logs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings())
    assert process.stdout is not None
    with process.stdout as pipe:
        return process, Path(pipe.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_a_folder_is_kept_on_request_and_else_emptied(home: Path, owner: subprocess.Popen[bytes]) -> None:
    folder = private_folder(owner.pid, keep=False)
    (folder / "run").mkdir()
    assert folder.parent == home and folder.name.startswith(f"wanvae-{os.getuid()}-{owner.pid}-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert private_folder(owner.pid, keep=True) == folder and (folder / "run").exists()
    assert private_folder(owner.pid, keep=False) == folder and not (folder / "run").exists()


def test_uploads_may_have_a_disk_of_their_own(
    home: Path, owner: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "large").mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(home / "large"))
    assert private_folder(owner.pid, keep=False).parent == home / "large"


def test_whose_process_cannot_be_seen_keeps_its_folder(
    home: Path, owner: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers with one temporary folder may give their apps the same process id."""
    folder = private_folder(owner.pid, keep=False)
    (folder / "run").mkdir()
    monkeypatch.setattr(module, "_instance", lambda pid: "ofanothercontainer")
    other = private_folder(owner.pid, keep=False)
    assert other != folder and (folder / "run").exists()


def test_folders_of_apps_that_are_gone_are_deleted(home: Path, owner: subprocess.Popen[bytes]) -> None:
    """As after a SIGKILL of everything, the keeper included."""
    prefix = f"wanvae-{os.getuid()}-"
    abandoned, used, new, old = (home / f"{prefix}{i}-abc" for i in range(4))
    logs, others_logs = home / "torchelastic_xyz", home / "important"
    for folder in (abandoned, used, new, old, logs, others_logs):
        folder.mkdir()
        if folder != old:
            (folder / "content").mkdir()
    (abandoned / LOCK).write_text(str(logs))
    (used / LOCK).write_text(str(others_logs))
    (home / "torchelastic_of_others").mkdir()
    os.utime(old, (time.time() - 1000,) * 2)
    with (used / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        private_folder(owner.pid, keep=False)
        assert used.exists() and new.exists() and not abandoned.exists() and not old.exists()
        assert not logs.exists() and (home / "torchelastic_of_others").exists()
    private_folder(owner.pid, keep=False)
    assert not used.exists() and others_logs.exists(), "only torchrun's folders may be named there"


def test_a_folder_outlives_the_ranks_but_not_torchrun(home: Path, owner: subprocess.Popen[bytes]) -> None:
    logs = home / "torchelastic_xyz"
    logs.mkdir()
    first, folder = use(owner.pid, keep=False, logs=logs)
    (folder / "result").write_text("of a finished run")
    kill(first)  # between two starts of the ranks nobody but the keeper uses it
    another = private_folder(os.getpid(), keep=False)
    assert (folder / "result").exists(), "another app has just started"
    second, same = use(owner.pid, keep=True, logs=logs)
    assert same == folder and (folder / "result").exists()
    owner.kill()
    time.sleep(0.3)
    assert folder.exists(), "a rank is still using it"
    kill(second)
    wait_for(lambda: not folder.exists() and not logs.exists(), 5)
    assert another.exists()


def test_the_keeper_does_not_end_by_a_signal(home: Path) -> None:
    process, folder = use(0, keep=False, logs=home / "none")
    keepers = [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if str(folder).encode() in _command(path) and b"folder_keeper" in _command(path)
    ]
    assert len(keepers) == 1 and os.getsid(keepers[0]) != os.getsid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(keepers[0], number)
    kill(process)
    wait_for(lambda: not folder.exists(), 5)
    wait_for(lambda: not _command(Path("/proc") / str(keepers[0])), 5)


def test_a_folder_that_others_can_write_to_is_not_used(
    home: Path, owner: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = home / f"wanvae-{os.getuid()}-{owner.pid}-{module._instance(owner.pid)}"
    trap.mkdir(mode=0o777)
    trap.chmod(0o777)
    monkeypatch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # as if another user owned it
    folder = private_folder(owner.pid, keep=False)
    assert folder != trap and folder.name.startswith(f"wanvae-{os.getuid()}-{owner.pid}-")


def test_without_locks_the_folder_is_used_all_the_same(
    home: Path, owner: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    other = home / f"wanvae-{os.getuid()}-1-abc"
    other.mkdir()
    (other / LOCK).touch()
    folder = private_folder(owner.pid, keep=False)
    assert (folder / LOCK).exists() and other.exists()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    os.utime(folder, (0, 0))
    (other / LOCK).unlink()
    os.utime(other, (0, 0))
    (home / f"wanvae-{os.getuid()}-2-abc" / "run").mkdir(parents=True)  # on a disk too full for a lock
    os.utime(home / f"wanvae-{os.getuid()}-2-abc", (0, 0))
    private_folder(os.getpid(), keep=False)
    assert not other.exists() and (home / f"wanvae-{os.getuid()}-2-abc" / "run").exists()


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_process_may_go_while_its_keeper_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the keeper would end with a traceback, and leave the folder."""
    process = subprocess.Popen(["true"])  # has ended, and is not waited for yet

    def vanish(path: str) -> None:
        assert path == f"/proc/{process.pid}/stat"
        process.wait()
        raise ProcessLookupError(path)

    monkeypatch.setattr(folder_keeper, "open", vanish, raising=False)
    folder_keeper.wait_for_end(process.pid)
    assert process.returncode == 0
