"""run_job: what every rank does for one job, and how the job ends alike on all ranks."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from wanvae_app.device import device_fault, num_spare_ranks, peak_bytes, reset_peak, tidy_up
from wanvae_app.errors import describe, forget, is_lost_connection
from wanvae_app.fast.agreement import why_unequal
from wanvae_app.jobs.job import Job, Step
from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.jobs.report import Report, Verdict, record_reports
from wanvae_app.jobs.vae_cache import VaeCache
from wanvae_app.jobs.vae_loading import load_on_all_ranks, make_room, unload_after
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.memory_estimate import Clip, free_bytes, refusal
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

log = logging.getLogger(__name__)


# What is told of a run that did not take the VAE's own path.
TOO_LARGE = "The path {} needs more memory than is free, so "
TWO_AT_ONCE = f"{TOO_LARGE}its largest layers took two frames at a time, which is slower"
PLAIN_INSTEAD = f"{TOO_LARGE}plain PyTorch coded this run"


class Outcome(NamedTuple):
    """How a job ended, the same on all ranks."""

    verdict: Verdict  # GO: all frames are in the run's log
    reason: str  # why it failed; empty otherwise


def run_job(group: Group, vaes: VaeCache, job: Job, run: JobState | None = None) -> Outcome:
    """Run one job with the VAE that it names; all ranks call it at once.

    Rank 0 gives the `run`, which receives progress and results.

    Afterwards all ranks are ready for the next job, whatever the outcome. Raises GroupLost if a rank has gone.
    """
    assert (run is not None) == (group.rank == 0)
    group.begin_job()
    try:
        vae = load_on_all_ranks(group, vaes, job.vae)
        if vae is None:
            reason = group.failure_reason()
            with recovering(group, f"loading {job.vae}"):
                group.rebuild()  # whoever heard of the failure has broken off the connections
                unload_after(reason, vaes, job.vae)
            return Outcome(Verdict.FAILED, reason)
        if run is not None:
            run.change(status=Status.RUNNING, message=f"{run.phase.gerund.capitalize()}.")
        return Worker(group, vaes, vae, job, run).work()
    finally:
        group.end_job()


def recovering(group: Group, where: str) -> AbstractContextManager[None]:
    """Let the watchdog end this rank if it cannot free what a failed step holds: a device may hang."""
    if group.watchdog is None:
        return nullcontext()
    return group.watchdog.working(f"recovering from a failure in {where}", can_be_idle=True)


class Worker:
    """One rank at work on one job: it agrees with the others before every chunk, then codes its part of the chunk."""

    def __init__(self, group: Group, vaes: VaeCache, vae: WanVAE, job: Job, run: JobState | None) -> None:
        self.group = group
        self.vaes = vaes
        self.vae = vae
        self.job = job
        self.run = run
        height, width = job.shape.height, job.shape.width
        shard = Shard.plan(
            height, width, group.size if job.parallel else 1, group.rank, group.data, group.peer_memory
        )
        # None for a rank that owns no part of the picture: it only agrees with the others.
        self.task = RankTask(group, vae, job, shard, run) if shard is not None else None
        self.path = vae.path  # of the job
        self.start = 0.0  # of the job, in seconds of `time.monotonic`

    def work(self) -> Outcome:
        """Run the job from the first agreement to the last."""
        # First of all: which agreements follow depends on path and dtype.
        if why := why_unequal(self.group, self.vae):
            self.group.announce_failure(f"The ranks cannot work together: {why}")
            return Outcome(self._agree(Report(Verdict.FAILED)), self._clean_up_failure())
        self.vae.take_path(self.vae.path)
        # A clip that reuses the last one's memory needs no more, so it fits.
        fits = self.task is not None and self.task.reuse_memory()
        if self.task is None:
            self.vae.release()
        make_room(
            self.group,
            self.vaes,
            self.job.vae,
            lambda more: not fits and bool(self._memory_refusal(more=more)),
        )
        if self.vae.path.kernels is not None:
            self._take_path_that_fits(fits)
        report = Report() if fits and self.path is self.vae.path else self._check_memory()  # its first one
        interleaved = len(self.job.phases) > 1 and self._all_can_interleave()
        reset_peak(self.group.device)
        if self.job.parallel and self.group.peer_memory is not None:
            chunk = (self.job.chunk, self.job.shape.height, self.job.shape.width)
            self.group.peer_memory.reserve_tokens(self.vae.config, chunk, self.vae.dtype)
        self._agree(Report())  # all ranks are here, so their clocks start together
        self.start = time.monotonic()
        if self.run is not None:
            self.run.change(started=self.start)
        verdict = self._run_steps(report, self.job.steps(interleaved))
        if verdict != Verdict.FAILED:
            verdict = max(verdict, self._agree(self._try_step(None)))
        if verdict == Verdict.FAILED:
            return Outcome(verdict, self._clean_up_failure())
        if self.task is not None:
            self.task.close()
        if self.group.device.type == "cpu":
            tidy_up(self.group.device)  # for other programs; a GPU's memory is kept for the next job
        return Outcome(verdict, "")

    def _run_steps(self, report: Report, steps: list[Step]) -> Verdict:
        """Take the steps as long as all ranks agree to go on, and return their last verdict."""
        for step in [*steps, None]:
            if self.run is not None and self.run.stop_requested:
                report.verdict = max(report.verdict, Verdict.STOP)
            verdict = self._agree(report, step)
            if verdict != Verdict.GO or step is None:
                break
            report = self._try_step(step)
        return verdict

    def _agree(self, report: Report, next_step: Step | None = None) -> Verdict:
        """Exchange reports with all ranks, and return the verdict that all follow. Rank 0 records the reports."""
        reports = [Report.from_numbers(numbers) for numbers in self.group.agree(report.to_numbers())]
        if self.run is not None and report.step is not None:
            record_reports(self.run, report.step, next_step, reports)
        return max(each.verdict for each in reports)

    def _try_step(self, step: Step | None) -> Report:
        """Take one step, or with None complete the last one and wait for its frames. Announce a failure."""
        task = self.task
        if task is None:
            return Report()
        watchdog = self.group.watchdog
        where = "sending frames" if step is None else step.description
        num_latents = self.job.chunk if step is None else step.stop - step.start
        try:
            with watchdog.working(where, num_latents) if watchdog is not None else nullcontext():
                times = task.finish() if step is None else task.run_step(step)
        except Exception as error:
            reason = f"Rank {self.group.rank} failed {where}: {describe(error)}"
            if fault := device_fault(self.group.device):
                log.exception("job %s: %s", self.job.id[:8], reason)
                raise self.group.lose_device(
                    f"rank {self.group.rank} lost its GPU {where} ({fault})"
                ) from error
            is_first = self.group.announce_failure(reason)
            if is_first and not is_lost_connection(error):
                log.exception("job %s: %s", self.job.id[:8], reason)
            else:  # another rank failed first, and its log has the cause
                log.warning("job %s: %s", self.job.id[:8], reason)
                log.debug("job %s", self.job.id[:8], exc_info=error)
            with recovering(self.group, where):
                task.close()
                if self.run is None:  # rank 0 must wait until all ranks know of the failure
                    task.abandon_frames()
                forget(error)
                self.group.drop()
            return Report(Verdict.FAILED, step)
        if times is None:
            return Report()
        seconds = (times.start - self.start, times.seconds - times.wait_seconds, times.wait_seconds)
        peak = float(peak_bytes(self.group.device))
        return Report(Verdict.GO, times.step, True, *seconds, peak, times.is_finite)

    def _clean_up_failure(self) -> str:
        """Free what the failed job holds, connect the ranks anew, and return why it failed."""
        reason = self.group.failure_reason()
        with recovering(self.group, "the last chunk"):
            if self.task is not None:
                self.task.close()
                self.task.abandon_frames()
            self.group.rebuild()  # after it, no rank waits for another
            self.vae.release()
            unload_after(reason, self.vaes, self.job.vae)
            tidy_up(self.group.device)
        return reason

    def _check_memory(self) -> Report:
        """Refuse a job that does not fit into this rank's free memory, before any chunk is coded."""
        reason = self._memory_refusal()
        if not reason:
            return Report()
        self.group.announce_failure(reason[:1].upper() + reason[1:])
        return Report(Verdict.FAILED)

    def _take_path_that_fits(self, fits: bool) -> None:
        """Take a path that needs less memory than the VAE's own, if some rank has too little for that one.

        Two frames at a time are tried first, then the plain path. Where neither fits, it remains the VAE's own. All
        ranks call this, and all take the same path. `fits` says that this rank knows its own path to fit.
        """
        own = self.vae.path
        if self.group.holds_on_all_ranks(fits or not self._memory_refusal()):
            return
        for path, what in ((own._replace(frames_at_once=2), TWO_AT_ONCE), (PLAIN, PLAIN_INSTEAD)):
            if not self.group.holds_on_all_ranks(not self._memory_refusal(path=path)):
                continue
            self.path = path
            self.vae.take_path(path)
            if self.run is not None:
                self.run.path_warning = what.format(own.name)
                log.info("job %s: %s", self.job.id[:8], self.run.path_warning)
            return

    def _all_can_interleave(self) -> bool:
        """Return whether all ranks have memory for the past of an encoder and of a decoder at once."""
        return self.group.holds_on_all_ranks(not self._memory_refusal(interleaved=True))

    def _memory_refusal(
        self, *, interleaved: bool = False, more: int = 0, path: CodePath | None = None
    ) -> str:
        """Why the job does not fit into this rank's free memory and `more` bytes; empty if it does.

        `path` takes the place of the job's.
        """
        if self.task is None:
            return ""
        group, job, vae = self.group, self.job, self.vae
        clip = Clip(vae.config, *job.shape[1:], job.chunk, vae.dtype, group.device, path or self.path)
        size = group.size if job.parallel else 1
        free = free_bytes(group.device)
        if free is not None:
            free += more
        most = group.size + num_spare_ranks(group.device)
        return refusal(clip, job.phases, size, group.rank, free, interleaved=interleaved, most_ranks=most)
