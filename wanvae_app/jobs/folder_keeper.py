"""The keeper of a private folder: a process that deletes it when its app is gone, however that ended.

    python -I -S folder_keeper.py PID FOLDER [MORE FOLDERS]

Holds FOLDER's lock while the process PID lives, so that nobody takes the folder for abandoned between two starts of
the ranks. Then waits until the ranks have let go of the lock, and deletes all folders. Needs the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import sys
import time

LOCK = "lock"  # the file in a private folder that its users lock
RANKS_END = 30.0  # seconds for the ranks to end after the process that started them


def main(pid: int, *folders: str) -> None:
    """Keep the folders until the process ends, then delete them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the app, and not before
    try:
        lock = os.open(os.path.join(folders[0], LOCK), os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError:
        return
    finally:
        os.close(1)  # tells the app that the lock is held, or cannot be
    wait_for_end(pid)
    if wait_for_lock(lock):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_end(pid: int) -> None:
    """Block until the process has ended."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or an old one
        end = os.pidfd_open(pid)
        select.select([end], [], [])
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        except PermissionError:  # another user's: ours is gone
            return
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{pid}/stat") as file,
        ):  # not Linux, or it goes just now
            if file.read().rpartition(")")[2].split()[0] == "Z":
                return  # it has ended, and nobody has asked how
        time.sleep(0.5)


def wait_for_lock(lock: int) -> bool:
    """Wait until nobody else holds the lock. Return False if that takes too long."""
    end = time.monotonic() + RANKS_END
    while time.monotonic() < end:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.02)
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
