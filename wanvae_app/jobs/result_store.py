"""ResultStore: the runs that are kept, the folders of their files, and when both are deleted."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import time
from pathlib import Path

from wanvae_app.errors import describe
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import Job
from wanvae_app.jobs.job_state import JobState, Status

log = logging.getLogger(__name__)

MAX_UNWATCHED = 6  # newest ended runs that are kept whether or not a page watches them
MAX_ENDED = 24  # ended runs that are kept at all
WATCHED_SECONDS = 30.0  # since a page last asked for a run; until then it counts as watched
FOLDER_PREFIX = "run-"
RUN_FILE = "run.json"  # in a finished run's folder
SAVED_FACTS = (
    "owner",
    "address",
    "name",
    "status",
    "fps",
    "num_frames",
    "num_ranks",
    "peak_bytes",
    "encode_seconds",
    "decode_seconds",
)
# After a restart these are still valid: all processes of a machine share the monotonic clock.
SAVED_TIMES = ("created", "started", "first_frame", "finished")


class ResultStore:
    """Runs by id, oldest first, with one folder each below `folder`. Thread-safe.

    Runs that an earlier process finished in `folder` are kept: their files can be downloaded, their frames are gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._runs: dict[str, JobState] = {}
        restored = [load_run(path) for path in folder.glob(f"{FOLDER_PREFIX}*")]
        for run in sorted((run for run in restored if run is not None), key=lambda run: run.created):
            self._runs[run.id] = run

    def new_folder(self) -> Path:
        """Make an empty folder for one run, which only this user can enter. Raises OSError if that fails."""
        self.make_folder()
        return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=self.folder))

    def make_folder(self) -> None:
        """Make the store's own folder, if it is not there. Raises OSError if that fails."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def folder_or_none(self) -> Path | None:
        """Make an empty folder for one run. Return None if that fails: its frames are then kept in memory."""
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
        """Return the run of that id, None if there is none or it was deleted."""
        with self._lock:
            return self._runs.get(run_id)

    def runs(self) -> list[JobState]:
        """Return all runs that are kept, oldest first."""
        with self._lock:
            return list(self._runs.values())

    def delete_old(self) -> None:
        """Delete ended runs: beyond the newest MAX_UNWATCHED if not watched, beyond the newest MAX_ENDED anyway.

        Those that are being archived or exported stay: their number is limited by the room that they take, see Budget.
        """
        now = time.monotonic()
        with self._lock:
            ended = [run for run in self._runs.values() if run.ended and not (run.is_pinned or run.is_needed)]
            surplus = [
                run
                for place, run in enumerate(reversed(ended), start=1)
                if place > MAX_ENDED or (place > MAX_UNWATCHED and now - run.last_seen > WATCHED_SECONDS)
            ]
            for run in surplus:
                del self._runs[run.id]
        for run in surplus:
            self.discard(run)

    def delete(self, run: JobState) -> None:
        """Delete a run, whether or not it is watched."""
        with self._lock:
            self._runs.pop(run.id, None)
        self.discard(run)

    def discard(self, run: JobState) -> None:
        """Free a run's frames and delete its folders."""
        run.close()
        for export in list(run.exports.values()):
            export.discard()
        if run.published is not None:
            shutil.rmtree(run.published, ignore_errors=True)
        if run.folder != self.folder:  # it is if the run got no folder of its own
            shutil.rmtree(run.folder, ignore_errors=True)

    def clear(self) -> None:
        """Discard all runs and delete the store's folder."""
        for run in self.runs():
            self.discard(run)
        shutil.rmtree(self.folder, ignore_errors=True)


def save_run(run: JobState) -> None:
    """Write the facts of a run with files to download into its folder, for `load_run` after a restart."""
    facts = {name: getattr(run, name) for name in (*SAVED_FACTS, *SAVED_TIMES)}
    is_cut = run.stop_requested and len(run.frames) < run.num_frames
    facts["status"] = Status.STOPPED if is_cut else Status.FINISHED
    files = [path.name if path is not None else None for path in (run.video_path, run.latent_path)]
    try:
        path = run.folder / RUN_FILE
        path.with_suffix(".part").write_text(json.dumps({"job": run.job.to_json(), "files": files, **facts}))
        path.with_suffix(".part").rename(path)  # so the file is never there in part
    except OSError as error:
        log.warning("job %s will not outlive a restart: %s", run.id[:8], error)


def load_run(folder: Path) -> JobState | None:
    """Return the run that `save_run` wrote there, without frames.

    Delete the folder and return None if it holds none, or one that cannot be read.
    """
    try:
        facts = json.loads((folder / RUN_FILE).read_text())
        job = Job.from_json(facts["job"])
        run = JobState(job, folder=folder, frames=FrameLog(1, 1), num_frames=facts["num_frames"])
        for name in (*SAVED_FACTS, *SAVED_TIMES):
            setattr(run, name, facts[name])
        run.status = Status(facts["status"])
        video, latent = facts["files"]
    except FileNotFoundError:  # the run had not finished when its rank ended
        shutil.rmtree(folder, ignore_errors=True)
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("a finished run could not be restored, and is deleted: %s", describe(error))
        shutil.rmtree(folder, ignore_errors=True)
        return None
    run.close()
    for path in folder.iterdir():
        if path.name not in (RUN_FILE, video, latent):  # what is of use with frames only
            path.unlink(missing_ok=True)
    run.video_path = folder / video if video else None
    run.latent_path = folder / latent if latent else None
    run.done = {phase: job.shape.num_latents for phase in job.phases}
    run.change(
        phase=job.phases[-1],
        message=f"{run.status.capitalize()}, and then the ranks were restarted: the files are here, "
        "the frames are gone.",
    )
    return run
