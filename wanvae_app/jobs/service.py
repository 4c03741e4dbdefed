"""Jobs: rank 0's queue and the thread that works it off; and `follow`, what the other ranks do meanwhile."""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from wanvae_app.codec import warm_up
from wanvae_app.errors import describe
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.fair_queue import FairQueue
from wanvae_app.jobs.job import Job, JobState, Status, shape_of_latent, shape_of_video
from wanvae_app.jobs.result_store import ResultStore, record
from wanvae_app.jobs.worker import Verdict, run_job
from wanvae_app.jobs.writer import Writer
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group, GroupLost
from wanvae_app.parallel.shard import Shard

log = logging.getLogger(__name__)

MAX_QUEUED = 32


class JobService:
    """Runs, from their making to their deletion. The first `submit` starts the thread that works them off.

    That thread alone issues collectives on rank 0. `lost` is called, once, when the other ranks are gone for
    good and only a restart helps; `broken` then says why. After a restart `notice` says that there was one.
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
        self.lost: Callable[[], None] = lambda: None
        self._lock = threading.Condition()
        self._queue = FairQueue()
        self._closing = False
        self._warming = group.device.type == "cuda"  # until `warm_up` is done
        self._writer = Writer(vae.config)
        self._thread: threading.Thread | None = None
        follow_progress(group, vae)

    @property
    def folder(self) -> Path:
        """Where the runs' folders lie."""
        return self.store.folder

    @property
    def health(self) -> str:
        """ "ready", "busy" or "broken"."""
        with self._lock:
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
        """A run, not yet queued: decodes a raw `latent` [1, C, T, H, W], or codes `source` there and back.

        Raises ValueError if this VAE cannot take it.
        """
        config = self.vae.config
        if chunk < 1:
            raise ValueError(f"{chunk} latent frames per chunk is impossible; give 1 or more.")
        if source is not None:
            shape = shape_of_video(source, config)
            latent = torch.zeros(1, *shape, dtype=torch.promote_types(self.vae.dtype, torch.float32))
        else:
            assert latent is not None, "a run needs a latent or a source"
            shape = shape_of_latent(latent, config)
        job = Job(
            secrets.token_urlsafe(16),
            "decode" if source is None else "roundtrip",
            shape,
            min(chunk, shape[1]),
            parallel,
        )
        folder = folder or self.store.folder_or_none()
        factor = config.output_factor
        run = JobState(
            job,
            folder=folder or self.folder,
            frames=FrameLog(shape[2] * factor, shape[3] * factor, folder or self.folder),
            num_frames=config.num_frames(shape[1]),
            owner=owner,
            name=name,
            fps=fps,
            latent=latent,
            source=source,
        )
        whole = Shard.plan(shape[2], shape[3], self.group.size if parallel else 1, 0)
        run.num_ranks = whole.num_ranks if whole is not None else 1
        return run

    def start(self) -> None:
        """Get ready for the first run, in the background; `submit` does it at the latest."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)
                self._thread.start()

    def submit(self, run: JobState) -> None:
        """Queue a run. Raises ValueError if the queue is full, or the app broken or closing."""
        with self._lock:
            if self.broken or self._closing:
                raise ValueError(self.broken or "The app is closing.")
            if len(self._queue) >= MAX_QUEUED:
                raise ValueError(
                    f"{MAX_QUEUED} runs are waiting already; try again when some of them are done."
                )
            self.start()
            run.on_stop = self._on_stop
            if self._warming:
                run.change(message="The GPUs are being got ready, once after a start; it begins by itself.")
            self.store.add(run)
            self._queue.add(run)
            self._lock.notify_all()
        self.store.delete_old()

    def get(self, run_id: str) -> JobState | None:
        """The run of that id, unless it has been deleted."""
        return self.store.get(run_id)

    def runs(self) -> list[JobState]:
        """All runs that are kept, oldest first."""
        return self.store.runs()

    def close(self) -> None:
        """Stop all runs, send the other ranks home, delete all files."""
        self.start()  # the others may be waiting for it
        with self._lock:
            self._closing = True
            self._lock.notify_all()
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
            return self._lose(str(error))
        self._warming = False
        while (run := self._next()) is not None:
            try:
                self._do(run)
            except GroupLost as error:
                return self._lose(str(error))
            except Exception as error:  # a fault of our own: the ranks may be anywhere
                log.exception("job %s", run.id[:8])
                return self._lose(describe(error))
            with self._lock:
                self._queue.done()
            self.store.delete_old()

    def _next(self) -> JobState | None:
        with self._lock:
            self._lock.wait_for(lambda: len(self._queue) or self._closing)
            return None if self._closing else self._queue.next()

    def _do(self, run: JobState) -> None:
        run.change(status=Status.RUNNING, message="Encoding." if run.phase == "encode" else "Decoding.")
        self.group.post({"job": asdict(run.job)})
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
            self._writer.put(run, self._finish)

    def _lose(self, reason: str) -> None:
        with self._lock:
            self.broken = f"{reason[:1].upper()}{reason[1:]}; the ranks are being restarted."
            runs = self._queue.clear()
        for run in runs:
            self._end(run, Status.FAILED, self.broken)
        self.lost()

    def _finish(self, run: JobState, message: str) -> None:
        record(run)
        self._end(run, Status.FINISHED, message)

    def _end(self, run: JobState, status: Status, message: str) -> None:
        run.frames.finish()
        run.change(status=status, message=message, finished=run.finished or time.monotonic())
        log.info("job %s: %s", run.id[:8], run.summary())

    def _on_stop(self, run: JobState) -> None:
        with self._lock:
            if not self._queue.remove(run):
                return
        self._end_stopped(run, "before it started")

    def _end_stopped(self, run: JobState, when: str) -> None:
        why = f": {run.why_stopped}" if run.why_stopped else ""
        self._end(run, Status.STOPPED, f"Stopped {when}{why}.")


def get_ready(group: Group, vae: WanVAE) -> None:
    """Warm up, and wait for the others, who may still have to compile: within a job a silent rank counts as lost.
    Raises GroupLost."""
    warm_up(vae)
    group.agree([0.0])


def follow(group: Group, vae: WanVAE) -> None:
    """What every rank but 0 does: job after job, until rank 0 says that it is over. Raises GroupLost."""
    follow_progress(group, vae)
    get_ready(group, vae)
    while "job" in (command := group.next_command()):
        job = command["job"]
        run_job(group, vae, Job(**{**job, "shape": tuple(job["shape"])}))


def follow_progress(group: Group, vae: WanVAE) -> None:
    """Let the rank's watchdog see every layer that is called."""
    if group.watchdog is not None:
        for module in vae.modules():
            module.register_forward_pre_hook(group.watchdog.tick)
