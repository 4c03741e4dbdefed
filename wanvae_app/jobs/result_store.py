"""Shelf: the runs that are kept, where their files lie, and when they go."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import Job, JobState, Status

log = logging.getLogger(__name__)

KEEP = 6  # ended runs whose frames and files are kept
WATCHED = 30.0  # seconds since a page last asked for a run, within which it is not deleted
MAX_KEPT = 24  # however many are being watched
PREFIX = "run-"  # of the folders of runs
RECORD = "run.json"
RECORDED = (
    "owner",
    "name",
    "fps",
    "num_frames",
    "num_ranks",
    "peak_bytes",
    "encode_seconds",
    "decode_seconds",
)
TIMES = ("created", "started", "first_frame", "finished")  # of a clock that all processes of a machine share


class ResultStore:
    """Runs by id, oldest first, and a folder for each below `folder`, which is made anew if it is missing.

    What an earlier process finished there is taken over: its files can be downloaded, its frames are gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._runs: dict[str, JobState] = {}
        restored = [restore(path) for path in folder.glob(f"{PREFIX}*")]
        for run in sorted((run for run in restored if run is not None), key=lambda run: run.created):
            self._runs[run.id] = run

    def new_folder(self) -> Path:
        """An empty folder for one run, readable by this user alone. Raises OSError where none can be made."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.folder))

    def folder_or_none(self) -> Path | None:
        """An empty folder, or None on a full disk: the frames will be kept in memory."""
        try:
            return self.new_folder()
        except OSError as error:
            log.warning("no folder for a run: %s", error)
            return None

    def add(self, run: JobState) -> None:
        """Keep a run."""
        with self._lock:
            self._runs[run.id] = run

    def get(self, run_id: str) -> JobState | None:
        """The run of that id, unless it has been deleted."""
        with self._lock:
            return self._runs.get(run_id)

    def runs(self) -> list[JobState]:
        """All runs that are kept, oldest first."""
        with self._lock:
            return list(self._runs.values())

    def delete_old(self) -> None:
        """Delete the oldest ended runs beyond KEEP, but none that somebody is watching, up to MAX_KEPT."""
        now = time.monotonic()
        with self._lock:
            ended = [run for run in self._runs.values() if run.ended]
            surplus = [
                run
                for place, run in enumerate(reversed(ended), start=1)
                if place > MAX_KEPT or (place > KEEP and now - run.last_seen > WATCHED)
            ]
            for run in surplus:
                del self._runs[run.id]
        for run in surplus:
            self.discard(run)

    def discard(self, run: JobState) -> None:
        """Free what a run holds, its folder included."""
        run.close()
        if run.folder != self.folder:  # where its own could not be made
            shutil.rmtree(run.folder, ignore_errors=True)

    def clear(self) -> None:
        """Delete everything."""
        for run in self.runs():
            self.discard(run)
        shutil.rmtree(self.folder, ignore_errors=True)


def record(run: JobState) -> None:
    """Write down a finished run, so that its files can still be had after a restart."""
    facts = {name: getattr(run, name) for name in (*RECORDED, *TIMES)}
    files = [path.name if path is not None else None for path in (run.video_path, run.latent_path)]
    try:
        path = run.folder / RECORD
        path.with_suffix(".part").write_text(json.dumps({"job": asdict(run.job), "files": files, **facts}))
        path.with_suffix(".part").rename(path)
    except OSError as error:
        log.warning("job %s will not outlive a restart: %s", run.id[:8], error)


def restore(folder: Path) -> JobState | None:
    """The finished run that was written down there; None, and the folder deleted, if there is none, or it cannot be
    read."""
    try:
        facts = json.loads((folder / RECORD).read_text())
        job = Job(**{**facts["job"], "shape": tuple(facts["job"]["shape"])})
        run = JobState(job, folder=folder, frames=FrameLog(1, 1), num_frames=facts["num_frames"])
        for name in (*RECORDED, *TIMES):
            setattr(run, name, facts[name])
        video, latent = facts["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.info("%s holds no finished run: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    run.close()
    run.video_path = folder / video if video else None
    run.latent_path = folder / latent if latent else None
    run.done = {phase: job.shape[1] for phase in job.phases}
    run.change(
        status=Status.FINISHED,
        phase=job.phases[-1],
        message="Finished, and then the ranks were restarted: the files are here, the frames are gone.",
    )
    return run


def private_folder(owner: int, again: bool) -> Path:
    """A folder of this user alone, named after the process `owner`: found again after a restart of the ranks
    (`again`), empty otherwise. Those of processes that are gone are deleted."""
    home = Path(tempfile.gettempdir())
    prefix = f"wanvae-{os.getuid()}-"
    for path in home.glob(f"{prefix}*"):
        found = re.fullmatch(rf"{prefix}(\d+)", path.name)
        if found and (not _alive(int(found[1])) or (int(found[1]) == owner and not again)):
            shutil.rmtree(path, ignore_errors=True)
    path = home / f"{prefix}{owner}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if status.st_uid == os.getuid() and status.st_mode & 0o170077 == 0o040000:  # a folder, nobody else's
            return path
    except OSError as error:
        log.warning("%s cannot be used: %s", path, error)
    return Path(tempfile.mkdtemp(prefix="wanvae-"))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
