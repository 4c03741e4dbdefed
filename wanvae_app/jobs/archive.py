"""Archive: ended runs on the disk, with their frames, for as long as there is room. It outlives the app.

    FOLDER/lock          held while runs are added or make room for others
    FOLDER/run-ID/       one run: run.json, frames.mkv, and what else there is
    FOLDER/part-RANDOM/  a run that is being written or deleted; whoever writes it holds its file `lock`

A run appears and disappears by one rename, and is never changed. So several apps can share a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanvae_app.errors import describe
from wanvae_app.jobs.budget import amount

log = logging.getLogger(__name__)

RUN_PREFIX = "run-"
RUN_NAME = re.compile(RUN_PREFIX + r"([\w-]{1,64})", re.ASCII)
PART_PREFIX = "part-"
LOCK = "lock"
FACTS_FILE = "run.json"
MAX_FACTS = 2**24  # bytes of a file with facts
MAX_RUNS = 1000
LOCK_SECONDS = 10.0  # that another app may hold the lock
LOOK_SECONDS = 1.0  # between two looks at what other apps have added


@dataclass(frozen=True)
class ArchivedRun:
    """One run of an archive."""

    id: str
    folder: Path
    owner: str
    created_at: float  # unix seconds
    num_bytes: int  # that it takes of the disk

    def facts(self) -> dict[str, Any]:
        """Read what `Archive.new_run` was given. Raises OSError if the run was deleted, ValueError if it is damaged."""
        facts = json.loads((self.folder / FACTS_FILE).read_text())
        if not isinstance(facts, dict):
            raise ValueError("its facts are no object")
        return facts


class Archive:
    """The runs in `folder`, `max_bytes` of them at most: the oldest ones go first. Thread-safe.

    What the folder holds besides runs, and runs that cannot be read, are left alone and logged once. Raises OSError,
    with a sentence, if the folder cannot be made or is open to others.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._lock = threading.Lock()  # guards the attributes below
        self._runs: dict[str, ArchivedRun] = {}
        self._skipped: set[str] = set()  # names in the folder that hold no run
        self._looked = -LOOK_SECONDS  # when the folder was last read
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
        except OSError as error:
            raise OSError(f"{folder} cannot be made: {error.strerror}") from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise OSError(f"{folder} is not a folder that you alone can enter: chmod 700 it, or move it away")
        with self._exclusive():
            self._delete_abandoned()
            self._make_room(0)

    def runs(self, owner: str | None = None) -> list[ArchivedRun]:
        """Return the owner's runs, or all, oldest first."""
        with self._lock:
            self._look()
            found = [run for run in self._runs.values() if owner in (None, run.owner)]
        return sorted(found, key=lambda run: run.created_at)

    def get(self, run_id: str) -> ArchivedRun | None:
        """Return the run of that id, None if there is none."""
        with self._lock:
            self._look()
            return self._runs.get(run_id)

    @contextlib.contextmanager
    def new_run(self, run_id: str, facts: dict[str, Any]) -> Iterator[Path]:
        """Give an empty folder for the files of a run; with the end of the block they are in the archive.

        `facts` name its `owner`, and when it was created, as `created_at`; the block may still add to them. After an
        exception nothing is left. Raises OSError, with a sentence, if the run cannot be kept.
        """
        assert RUN_NAME.fullmatch(f"{RUN_PREFIX}{run_id}"), run_id
        with self._exclusive():
            self._delete_abandoned()
            part = self.folder / f"{PART_PREFIX}{secrets.token_hex(8)}"
            part.mkdir(mode=0o700)
            lock = os.open(part / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _try_lock(lock)
        try:
            yield part
            (part / FACTS_FILE).write_text(json.dumps(facts))
            num_bytes = _num_bytes(part)
            if num_bytes > self.max_bytes:
                raise OSError(f"it takes {amount(num_bytes)}, and --history allows {amount(self.max_bytes)}")
            with self._exclusive():
                self._make_room(num_bytes)
                (part / LOCK).unlink()
                part.rename(self.folder / f"{RUN_PREFIX}{run_id}")
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        finally:
            os.close(lock)
            self._look_again()

    def delete(self, run_id: str) -> None:
        """Delete a run, if it is there."""
        if self.get(run_id) is None:
            return
        part = self.folder / f"{PART_PREFIX}{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):  # another app was faster
            (self.folder / f"{RUN_PREFIX}{run_id}").rename(part)
        shutil.rmtree(part, ignore_errors=True)
        self._look_again()

    def _look_again(self) -> None:
        with self._lock:
            self._looked = -LOOK_SECONDS
            self._look()

    def _look(self) -> None:
        """Learn which runs are there now, unless that was done just now."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            names = {entry.name for entry in os.scandir(self.folder)}
        except OSError as error:
            log.warning("the history cannot be read: %s", error.strerror)
            names = set()
        known = {run.folder.name: run for run in self._runs.values()}
        self._skipped &= names
        self._runs = {}
        for name in names:
            if name == LOCK or name.startswith(PART_PREFIX) or name in self._skipped:
                continue
            run = known.get(name) or self._load(name)
            if run is not None:
                self._runs[run.id] = run

    def _load(self, name: str) -> ArchivedRun | None:
        folder = self.folder / name
        try:
            return load(folder)
        except FileNotFoundError as error:
            if not folder.exists():  # another app has just deleted it
                return None
            reason = describe(error)
        except Exception as error:  # whatever lies there
            reason = describe(error)
        log.warning("%s in the history is skipped: %s", name[:80], reason)
        self._skipped.add(name)
        return None

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other apps, and other threads, from adding runs. Without locks on the file system, let them.

        Raises OSError, with a sentence, if somebody else holds the lock for LOCK_SECONDS.
        """
        lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + LOCK_SECONDS
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if time.monotonic() > end:
                        raise OSError("another app keeps the history locked") from error
                    time.sleep(0.02)
                    continue
                except OSError as error:
                    log.debug("%s: no locks here: %s", self.folder, error.strerror)
                break
            yield
        finally:
            os.close(lock)

    def _make_room(self, num_bytes: int) -> None:
        """Delete the oldest runs, so that one of this size fits in."""
        self._look_again()
        runs = self.runs()
        total = num_bytes + sum(run.num_bytes for run in runs)
        surplus = len(runs) + 1 - MAX_RUNS
        for run in runs:
            if total <= self.max_bytes and surplus <= 0:
                break
            self.delete(run.id)
            total -= run.num_bytes
            surplus -= 1

    def _delete_abandoned(self) -> None:
        """Delete the parts that nobody writes any more."""
        for part in self.folder.glob(f"{PART_PREFIX}*"):
            with contextlib.suppress(OSError):
                lock = os.open(part / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    is_abandoned = _try_lock(lock)
                finally:
                    os.close(lock)
                if not is_abandoned:
                    continue
            shutil.rmtree(part, ignore_errors=True)


def load(folder: Path) -> ArchivedRun:
    """Return the run in a folder of an archive. Raises whatever its content provokes if that is no run."""
    found = RUN_NAME.fullmatch(folder.name)
    if found is None or not stat.S_ISDIR(folder.lstat().st_mode):
        raise ValueError("it is no folder of a run")
    path = folder / FACTS_FILE
    if path.stat().st_size > MAX_FACTS:
        raise ValueError(f"its facts take more than {MAX_FACTS} bytes")
    facts = json.loads(path.read_text())
    if not isinstance(facts, dict) or facts["job"]["id"] != found[1]:
        raise ValueError("its facts are those of another run")
    owner, created_at = facts["owner"], float(facts["created_at"])
    if not isinstance(owner, str) or not 0 < created_at < 2**40:
        raise ValueError("its facts name no owner and time")
    return ArchivedRun(found[1], folder, owner, created_at, _num_bytes(folder))


def _num_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.iterdir())


def _try_lock(lock: int) -> bool:
    """Lock a file if nobody else has. Return False if somebody has, or if the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
