"""run_job: what every rank does for one job, chunk after chunk, and how it ends alike on all of them."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from enum import IntEnum

from wanvae_app.device import peak_bytes, reset_peak, tidy_up
from wanvae_app.errors import describe, forget
from wanvae_app.jobs.job import Activity, Job, JobState, Step
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.memory_estimate import free_bytes, refusal
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

log = logging.getLogger(__name__)


class Verdict(IntEnum):
    """How it goes on; of all ranks' verdicts the highest counts."""

    GO = 0
    STOP = 1
    FAILED = 2


@dataclass
class Report:
    """What a rank tells the others before each chunk: its verdict, and how its last chunk went."""

    verdict: Verdict = Verdict.GO
    worked: bool = False  # this rank had a part in it
    start: float = 0.0  # seconds since the job started
    compute_seconds: float = 0.0
    wait_seconds: float = 0.0
    peak_bytes: float = 0.0


def run_job(group: Group, vae: WanVAE, job: Job, run: JobState | None = None) -> tuple[Verdict, str]:
    """One job, from its first agreement to its last, on all ranks at once; rank 0 gives the `run`.

    Returns GO when all frames are in the run's log, STOP or FAILED, and for a failure its reason; it is the
    same on all ranks, and they are ready for the next job. Raises GroupLost if a rank has gone.
    """
    assert (run is not None) == (group.rank == 0)
    group.begin()
    try:
        return Worker(group, vae, job, run).do()
    finally:
        group.end()


class Worker:
    def __init__(self, group: Group, vae: WanVAE, job: Job, run: JobState | None) -> None:
        self.group = group
        self.vae = vae
        self.job = job
        self.run = run
        _, _, height, width = job.shape
        shard = Shard.plan(
            height, width, group.size if job.parallel else 1, group.rank, group.data, group.peer_memory
        )
        self.task = RankTask(group, vae, job, shard, run) if shard is not None else None
        self.start = 0.0

    def do(self) -> tuple[Verdict, str]:
        report, last = Report(), None
        if self.task is None:
            self.vae.release()
        elif not self.task.goes_on():
            report = self._look_ahead()  # else what it takes is there already
        interleaved = len(self.job.phases) > 1 and self._holds_both()
        reset_peak(self.group.device)
        if self.job.parallel and self.group.peer_memory is not None:
            chunk = (self.job.chunk, *self.job.shape[2:])
            self.group.peer_memory.reserve(self.group.agree, self.vae.config, chunk, self.vae.dtype)
        self._agree(Report())  # all are here: their clocks start together
        self.start = time.monotonic()
        if self.run is not None:
            self.run.change(started=self.start)
        for step in [*self.job.steps(interleaved), None]:
            if self.run is not None and self.run.stop_requested:
                report.verdict = max(report.verdict, Verdict.STOP)
            verdict, reports = self._agree(report)
            if self.run is not None and last is not None:
                record(self.run, last, step, reports)
            if verdict != Verdict.GO or step is None:
                break
            report, last = self._attempt(step)
        if verdict != Verdict.FAILED:
            stopped = verdict
            report, last = self._attempt(None)  # the frames that are still on their way
            verdict, reports = self._agree(report)
            if self.run is not None and last is not None:
                record(self.run, last, None, reports)
            verdict = max(verdict, stopped)
        if verdict == Verdict.FAILED:
            reason = self.group.reason()
            if self.task is not None:
                self.task.let_go()
                self.task.abandon()
            self.group.rebuild()  # after it nobody waits for anybody
            self.vae.release()
            tidy_up(self.group.device)
            return verdict, reason
        if self.task is not None:
            self.task.let_go()
        if self.group.device.type == "cpu":  # a GPU is ours, but a workstation's memory is everybody's
            tidy_up(self.group.device)
        return verdict, ""

    def _agree(self, report: Report) -> tuple[Verdict, list[Report]]:
        reports = []
        for numbers in self.group.agree([float(value) for value in astuple(report)]):
            reports.append(Report(Verdict(int(numbers[0])), bool(numbers[1]), *numbers[2:]))
        return max(r.verdict for r in reports), reports

    def _look_ahead(self) -> Report:
        """Refuse a job that will not fit into this rank's memory, before anything is done."""
        reason = self._refusal()
        if not reason:
            return Report()
        self.group.announce(reason[:1].upper() + reason[1:])
        return Report(Verdict.FAILED)

    def _holds_both(self) -> bool:
        """Whether all ranks have room for an encoder's and a decoder's past at once: decoding need not wait then."""
        return all(
            numbers == [0.0] for numbers in self.group.agree([float(bool(self._refusal(interleaved=True)))])
        )

    def _refusal(self, interleaved: bool = False) -> str:
        if self.task is None:
            return ""
        group, job, vae = self.group, self.job, self.vae
        what = vae.config, job.phases, job.shape[1:], job.chunk, vae.dtype, group.size if job.parallel else 1
        return refusal(*what, group.rank, free_bytes(group.device), group.device, interleaved=interleaved)

    def _attempt(self, step: Step | None) -> tuple[Report, Step | None]:
        """Take one step, or with None the last: see the frames off. Returns what to report, and the chunk that it is
        about. A failure is announced and reported."""
        task = self.task
        if task is None:
            return Report(), None
        watchdog = self.group.watchdog
        try:
            with watchdog.working(_where(step)) if watchdog is not None else nullcontext():
                done = task.finish() if step is None else task.take(step)
        except Exception as error:
            reason = f"Rank {self.group.rank} failed {_where(step)}: {describe(error)}"
            if self.group.announce(reason):
                log.exception("job %s: %s", self.job.id[:8], reason)
            else:  # a consequence of what another rank's log explains
                log.warning("job %s: %s", self.job.id[:8], reason)
            task.let_go()
            if self.run is None:
                task.abandon()
            forget(error)
            self.group.drop("data", "frames")
            return Report(Verdict.FAILED), step
        if done is None:
            return Report(), None
        times = (done.start - self.start, done.seconds - done.wait_seconds, done.wait_seconds)
        return Report(Verdict.GO, True, *times, float(peak_bytes(self.group.device))), done.step


def record(run: JobState, last: Step, next_step: Step | None, reports: list[Report]) -> None:
    """Write into the run what the ranks reported of the step `last`."""
    if any(report.verdict == Verdict.FAILED for report in reports):
        return
    for rank, report in enumerate(reports):
        if report.worked:
            times = (report.start, report.compute_seconds, report.wait_seconds)
            run.activity.append(Activity(rank, last.phase, last.chunk, *times))
    before = run.peak_bytes or [0] * len(reports)
    peaks = [max(peak, int(report.peak_bytes)) for peak, report in zip(before, reports, strict=True)]
    run.done[last.phase] = last.stop
    if last.phase == "encode":
        mine = reports[0].compute_seconds + reports[0].wait_seconds
        run.encode_seconds = (run.encode_seconds or 0.0) + mine
    # By turns, it is decoding once the first chunk is decoded.
    begun = run.phase == "decode" or (next_step or last).phase == "decode"
    run.change(peak_bytes=peaks, phase="decode" if begun else "encode")


def _where(step: Step | None) -> str:
    return "sending frames" if step is None else f"{step.phase[:-1]}ing chunk {step.chunk + 1}"
