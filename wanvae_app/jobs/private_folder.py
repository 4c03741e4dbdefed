"""The temporary folder of one process, and the removal of folders whose process is gone."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def private_folder(pid: int, keep: bool) -> Path:
    """Return a temporary folder for the process `pid`, which only this user can enter.

    If `keep`, its content stays, as after a restart of the ranks; else the folder is empty. Folders of processes that
    are gone are deleted. If others could write to the folder, one with a random name is returned instead.
    """
    home = Path(tempfile.gettempdir())
    prefix = f"wanvae-{os.getuid()}-"
    for path in home.glob(f"{prefix}*"):
        found = re.fullmatch(rf"{prefix}(\d+)", path.name)
        if found and (not _is_alive(int(found[1])) or (int(found[1]) == pid and not keep)):
            shutil.rmtree(path, ignore_errors=True)
    path = home / f"{prefix}{pid}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if status.st_uid == os.getuid() and stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077:
            return path
    except OSError as error:
        log.warning("%s cannot be used: %s", path, error)
    return Path(tempfile.mkdtemp(prefix="wanvae-"))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True
