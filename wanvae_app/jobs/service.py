"""JobService: rank 0's queue of runs, and the thread that works through it."""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wanvae_app.errors import describe
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.fair_queue import FairQueue
from wanvae_app.jobs.follower import get_ready
from wanvae_app.jobs.job import Job, JobKind
from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.latent_shape import shape_of_encoded, shape_of_latent
from wanvae_app.jobs.report import Verdict
from wanvae_app.jobs.result_store import ResultStore, save_run
from wanvae_app.jobs.worker import run_job
from wanvae_app.jobs.writer import Writer
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group, GroupLost
from wanvae_app.parallel.shard import Shard

log = logging.getLogger(__name__)


class JobService:
    """All runs of this app, from `new_run` to their deletion. Thread-safe.

    The jobs thread starts with `start` or the first `submit`. On rank 0, only this thread calls collectives. The files
    of all runs lie in `folder`; without one, a temporary folder is made.

    When a rank is lost, only a restart of all ranks helps: `broken` then says why in a sentence, and `on_lost` is
    called once. After such a restart, `notice` says that it happened.
    """

    def __init__(self, group: Group, vae: WanVAE, folder: Path | None = None) -> None:
        assert group.rank == 0
        self.group = group
        self.vae = vae
        self.store = ResultStore(folder or Path(tempfile.mkdtemp(prefix="wanvae-")))
        self.broken = ""
        self.notice = ""
        if group.restarts:
            self.notice = f"The ranks were restarted: {group.last_words or 'one of them died'}."
        self.on_lost: Callable[[], None] = lambda: None
        self._changed = threading.Condition()  # guards `broken` and the attributes below
        self._queue = FairQueue()
        self._closing = False
        self._getting_ready = group.device.type == "cuda"  # a CPU has nothing to compile
        self._writer = Writer(vae.config)
        self._thread: threading.Thread | None = None

    @property
    def folder(self) -> Path:
        """The folder that holds the runs' folders."""
        return self.store.folder

    @property
    def health(self) -> str:
        """ "ready", "busy" or "broken"."""
        with self._changed:
            if self.broken:
                return "broken"
            return "busy" if self._queue.current is not None or len(self._queue) else "ready"

    def new_run(
        self,
        *,
        latent: Tensor | None = None,
        source: FrameLog | None = None,
        chunk: int = 1,
        parallel: bool = True,
        owner: str = "",
        name: str = "",
        fps: float = 16.0,
        folder: Path | None = None,
    ) -> JobState:
        """Make a run, to be queued with `submit`.

        It decodes the raw `latent` [1 C T H W], or encodes and decodes the frames of `source`; give one of both.
        `chunk` is in latent frames, `fps` goes into the MP4. Without a `folder` of its own, the run gets a new one.
        Raises ValueError if this VAE cannot take the input.
        """
        config = self.vae.config
        if chunk < 1:
            raise ValueError(f"{chunk} latent frames per chunk is impossible; give 1 or more.")
        if source is not None:
            shape = shape_of_encoded(source, config)
            latent = torch.zeros(1, *shape, dtype=torch.promote_types(self.vae.dtype, torch.float32))
        else:
            assert latent is not None, "a run needs a latent or a source"
            shape = shape_of_latent(latent, config)
        job = Job(
            id=secrets.token_urlsafe(16),
            kind=JobKind.DECODE if source is None else JobKind.ROUNDTRIP,
            shape=shape,
            chunk=min(chunk, shape.num_latents),
            parallel=parallel,
        )
        folder = folder or self.store.folder_or_none()
        factor = config.output_factor
        run = JobState(
            job,
            folder=folder or self.folder,
            frames=FrameLog(shape.height * factor, shape.width * factor, folder or self.folder),
            num_frames=config.num_frames(shape.num_latents),
            owner=owner,
            name=name,
            fps=fps,
            latent=latent,
            source=source,
        )
        shard = Shard.plan(shape.height, shape.width, self.group.size if parallel else 1, 0)
        run.num_ranks = shard.num_ranks if shard is not None else 1
        return run

    def start(self) -> None:
        """Start the jobs thread: it gets the ranks ready for the first run. `submit` does this if nobody has."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)
                self._thread.start()

    def submit(self, run: JobState) -> None:
        """Queue a run. Raises ValueError if no place is left for it, the service broken, or the app closing."""
        with self._changed:
            if self.broken or self._closing:
                raise ValueError(self.broken or "The app is closing.")
            if refusal := self._queue.refusal(run):
                raise ValueError(refusal)
            self.start()
            run.on_stop = self._on_stop
            if self._getting_ready:
                run.change(message="The GPUs are being got ready, once after a start; it begins by itself.")
            self.store.add(run)
            self._queue.add(run)
            self._changed.notify_all()
        self.store.delete_old()

    def get(self, run_id: str) -> JobState | None:
        """Return the run of that id, None if there is none or it was deleted."""
        return self.store.get(run_id)

    def runs(self) -> list[JobState]:
        """Return all runs that are kept, oldest first."""
        return self.store.runs()

    def close(self) -> None:
        """Stop all runs, end the followers, delete all files."""
        self.start()  # the followers may still wait in `get_ready` for this rank
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for run in self.runs():
            run.stop()
        if self._thread is not None:
            self._thread.join()
        if not self.broken:
            self.group.post({"end": True})
        self._writer.close()
        self.store.clear()

    def _loop(self) -> None:
        try:
            get_ready(self.group, self.vae)
        except GroupLost as error:
            return self._break(str(error))
        self._getting_ready = False
        while (run := self._wait_for_next()) is not None:
            try:
                self._do(run)
            except GroupLost as error:
                return self._break(str(error))
            except Exception as error:  # a bug: who knows what the other ranks are doing now
                log.exception("job %s", run.id[:8])
                return self._break(describe(error))
            with self._changed:
                self._queue.end_current()
            self.store.delete_old()

    def _wait_for_next(self) -> JobState | None:
        """Wait for the next run; return None when the app closes."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) or self._closing)
            return None if self._closing else self._queue.start_next()

    def _do(self, run: JobState) -> None:
        """Code the run's clip on all ranks, and leave its files to the writer."""
        run.change(status=Status.RUNNING, message=f"{run.phase.gerund.capitalize()}.")
        self.group.post({"job": run.job.to_json()})
        verdict, reason = run_job(self.group, self.vae, run.job, run)
        run.finished = time.monotonic()
        if run.started is not None and verdict == Verdict.GO:
            run.decode_seconds = run.finished - run.started - (run.encode_seconds or 0.0)
        run.frames.finish()
        if verdict == Verdict.FAILED:
            self._end(run, Status.FAILED, f"{reason}.")
        elif verdict == Verdict.STOP:
            self._end_stopped(run, f"after {len(run.frames)} of {run.num_frames} frames")
        else:
            run.change(status=Status.WRITING, message="Writing the files to download.")
            self._writer.put(run, self._on_written)

    def _break(self, reason: str) -> None:
        """Fail all runs, because a rank is lost."""
        with self._changed:
            self.broken = f"{reason[:1].upper()}{reason[1:]}; the ranks are being restarted."
            runs = self._queue.clear()
        for run in runs:
            self._end(run, Status.FAILED, self.broken)
        self.on_lost()

    def _on_written(self, run: JobState, message: str) -> None:
        save_run(run)
        self._end(run, Status.FINISHED, message)

    def _on_stop(self, run: JobState) -> None:
        """End the run at once if it is queued; the jobs thread ends a running one."""
        with self._changed:
            if not self._queue.remove(run):
                return
        self._end_stopped(run, "before it started")

    def _end_stopped(self, run: JobState, when: str) -> None:
        reason = f": {run.stop_reason}" if run.stop_reason else ""
        self._end(run, Status.STOPPED, f"Stopped {when}{reason}.")

    def _end(self, run: JobState, status: Status, message: str) -> None:
        run.frames.finish()
        run.change(status=status, message=message, finished=run.finished or time.monotonic())
        log.info("job %s: %s", run.id[:8], run.summary())
