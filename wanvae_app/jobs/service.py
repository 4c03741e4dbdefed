"""JobService: rank 0's queue of runs, and the thread that works through it."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from wanvae_app.errors import describe, join_sentences, plural
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.budget import Budget, amount
from wanvae_app.jobs.exports import Exports
from wanvae_app.jobs.fair_queue import FairQueue
from wanvae_app.jobs.follower import get_ready
from wanvae_app.jobs.job import JobKind
from wanvae_app.jobs.job_state import JobState, Needs, Status
from wanvae_app.jobs.readers import Readers
from wanvae_app.jobs.report import Verdict
from wanvae_app.jobs.result_store import ResultStore, save_run
from wanvae_app.jobs.run_setup import new_state, set_input
from wanvae_app.jobs.unread_input import ReadInput, UnreadInput
from wanvae_app.jobs.vae_cache import VaeCache
from wanvae_app.jobs.worker import run_job
from wanvae_app.jobs.writer import Writer
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group, GroupLost

log = logging.getLogger(__name__)


class JobService:
    """All runs of this app, from `new_run` to their deletion. Thread-safe.

    The jobs thread starts with `start` or the first `submit`. On rank 0, only this thread calls collectives. The files
    of all runs lie in `folder`; without one, a temporary folder is made.

    When a rank is lost, only a restart of all ranks helps: `broken` then says why in a sentence, and `on_lost` is
    called once. After such a restart, `notice` says that it happened.
    """

    def __init__(self, group: Group, vaes: VaeCache | WanVAE, folder: Path | None = None) -> None:
        """Serve these VAEs; a single one stands for a cache of it."""
        assert group.rank == 0
        self.group = group
        self.vaes = VaeCache.of(vaes) if isinstance(vaes, WanVAE) else vaes
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
        self._writer = Writer(self.vaes)
        self._thread: threading.Thread | None = None
        self._budget = Budget(self.store)
        self.exports = Exports(self, self._budget)
        ends = self._refuse, self._waiting_message
        self._readers = Readers(self._changed, self._queue, self._budget, self.vaes, group.size, *ends)

    @property
    def folder(self) -> Path:
        """The folder that holds the runs' folders."""
        return self.store.folder

    @property
    def vae(self) -> WanVAE:
        """The first VAE, which is taken unless another is asked for."""
        return self.vaes.first

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
        vae: str = "",
        bit_depth: int = 8,
    ) -> JobState:
        """Make a run, to be queued with `submit`.

        It decodes the raw `latent` [1 C T H W], or encodes and decodes the frames of `source`; give one of both.
        `chunk` is in latent frames, `fps` goes into the MP4, `vae` is a name as `VaeCache.find` takes it. Frames of
        `bit_depth` 16 are for an Export, and no files are made of them. Raises ValueError if there is no such VAE, or
        if it cannot take the input.
        """
        kind = JobKind.DECODE if source is None else JobKind.ROUNDTRIP
        run = self._new_state(
            kind, vae, chunk=chunk, parallel=parallel, owner=owner, name=name, bit_depth=bit_depth
        )
        folder = self.store.folder_or_none()
        try:
            found = ReadInput(latent, source, fps)
            set_input(run, found, folder or self.folder, self.vaes[run.job.vae], self.group.size)
        except BaseException:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    def new_unread_run(self, unread: UnreadInput, kind: JobKind, vae: str = "", **options: Any) -> JobState:
        """Make a run, to be queued with `submit`, whose input is read when its turn comes near.

        What cannot be used ends it as failed, with `refused` set. `options` are `chunk`, `parallel`, `owner` and
        `bit_depth` as `new_run` takes them.
        """
        run = self._new_state(kind, vae, name=unread.name, **options)
        run.unread = unread
        return run

    def _new_state(self, kind: JobKind, vae: str, **options: Any) -> JobState:
        """A run by the VAE that is asked for; for the options see `new_state`."""
        vae = self.vaes.find(vae)
        return new_state(kind, self.folder, self.vaes[vae].config, vae=vae, **options)

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
            run.change(message=self._waiting_message())
            self.store.add(run)
            self._queue.add(run)
            if not run.is_read:
                self._readers.start()
        self._readers.wake()
        self.store.delete_old()

    def get(self, run_id: str) -> JobState | None:
        """Return the run of that id, None if there is none or it was deleted."""
        return self.store.get(run_id)

    def reopen(self, run: JobState) -> None:
        """Keep a run that ended long ago, whose frames will be decoded from the archive.

        Raises ValueError, with the numbers, if there is no room for them; OSError without a folder.
        """
        logs = [run.frames, *([run.source] if run.source is not None else [])]
        needs = Needs(sum(len(log) * log.frame_bytes for log in logs), 0)
        if not self._budget.grant(run, needs):
            raise ValueError(f"{run.name} needs {amount(needs.disk)} of the server's disk; try again later.")
        run.needs = Needs(0, 0)  # from now on, what it has decoded counts
        self.store.make_folder()
        self.store.add(run)
        self.store.delete_old()

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
        self._readers.close()
        self.exports.close()
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
            self._changed.wait_for(lambda: self._queue.has_ready or self._closing)
            return None if self._closing else self._queue.start_next()

    def _do(self, run: JobState) -> None:
        """Code the run's clip on all ranks, and leave its files to the writer."""
        if not self.vaes.is_loaded(run.job.vae):
            run.change(message=f"Loading {run.job.vae} on all ranks.", num_runs_before=0)
        self.group.post({"job": run.job.to_json()})
        verdict, reason = run_job(self.group, self.vaes, run.job, run)
        run.finished = time.monotonic()
        if run.started is not None and verdict == Verdict.GO:
            run.decode_seconds = run.finished - run.started - (run.encode_seconds or 0.0)
        run.frames.finish()
        if verdict == Verdict.FAILED:
            self._end(run, Status.FAILED, f"{reason}.")
        elif verdict == Verdict.STOP and not (len(run.frames) and run.wants_files):
            self._end_stopped(run, f"after {len(run.frames)} of {plural(run.num_frames, 'frame')}")
        elif not run.wants_files:
            self._end(run, Status.FINISHED, "Finished.")
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

    def _waiting_message(self) -> str:
        """What a queued run says whose input is read."""
        if self._getting_ready:
            return "The GPUs are being got ready, once after a start; it begins by itself."
        return "Waiting."

    def _refuse(self, run: JobState, message: str) -> None:
        """End a queued run whose input cannot be used."""
        with self._changed:
            if not self._queue.remove(run):
                return
        run.refused = True
        self._end(run, Status.FAILED, message)

    def _on_written(self, run: JobState, problems: list[str]) -> None:
        save_run(run)
        if len(run.frames) == run.num_frames:
            self._end(run, Status.FINISHED, join_sentences("Finished", *problems))
        else:
            self._end_stopped(run, f"after {len(run.frames)} of {plural(run.num_frames, 'frame')}", problems)

    def _on_stop(self, run: JobState) -> None:
        """End the run at once if it is queued; the jobs thread ends a running one."""
        with self._changed:
            if not self._queue.remove(run):
                return
        self._end_stopped(run, "before it started")

    def _end_stopped(self, run: JobState, when: str, problems: Sequence[str] = ()) -> None:
        reason = f": {run.stop_reason}" if run.stop_reason else ""
        self._end(run, Status.STOPPED, join_sentences(f"Stopped {when}{reason}", *problems))

    def _end(self, run: JobState, status: Status, message: str) -> None:
        run.frames.finish()
        if run.job.kind == JobKind.DECODE:
            run.latent = None  # which may take a gigabyte
        run.change(status=status, message=message, finished=run.finished or time.monotonic())
        log.info("job %s: %s", run.id[:8], run.summary())
        self._readers.wake()
        if run.on_end is not None:
            run.on_end()
