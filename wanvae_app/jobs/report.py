"""Report: what each rank tells the others before every chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from wanvae_app.jobs.job import Phase, Step
from wanvae_app.jobs.job_state import Activity, JobState


class Verdict(IntEnum):
    """Whether a rank can go on. All ranks follow the highest of their verdicts."""

    GO = 0
    STOP = 1
    FAILED = 2


@dataclass
class Report:
    """A rank's verdict, and its work on the last chunk that it completed.

    `step` is that chunk, None if there is none to report. It is not sent: all ranks report on the same step.
    """

    verdict: Verdict = Verdict.GO
    step: Step | None = None
    worked: bool = False  # whether this rank coded a part of the step
    start: float = 0.0  # seconds since the job started
    compute_seconds: float = 0.0
    wait_seconds: float = 0.0  # in exchanges with other ranks
    peak_bytes: float = 0.0  # memory, since the job started
    is_finite: bool = True  # whether all numbers that were decoded are

    def to_numbers(self) -> list[float]:
        """Return the report as `Group.agree` sends it."""
        times = (self.start, self.compute_seconds, self.wait_seconds)
        return [float(self.verdict), float(self.worked), *times, self.peak_bytes, float(self.is_finite)]

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> Report:
        """Return the report of another rank; its `step` is None."""
        verdict, worked, start, compute_seconds, wait_seconds, peak, is_finite = numbers
        times = (start, compute_seconds, wait_seconds)
        return cls(Verdict(int(verdict)), None, bool(worked), *times, peak, bool(is_finite))


def record_reports(run: JobState, step: Step, next_step: Step | None, reports: Sequence[Report]) -> None:
    """Write into the run what all ranks, in their order, reported of `step`; nothing if one of them failed."""
    if any(report.verdict == Verdict.FAILED for report in reports):
        return
    for rank, report in enumerate(reports):
        if report.worked:
            times = (report.start, report.compute_seconds, report.wait_seconds)
            run.activity.append(Activity(rank, step.phase, step.chunk, *times))
        if not report.is_finite and not run.decoder_warning:
            run.decoder_warning = (
                f"The decoder made numbers that are not finite, first in chunk {step.chunk + 1} on rank {rank}; these "
                "pixels are black"
            )
    before = run.peak_bytes or [0] * len(reports)
    peaks = [max(peak, int(report.peak_bytes)) for peak, report in zip(before, reports, strict=True)]
    run.done[step.phase] = step.stop
    if step.phase == Phase.ENCODE:
        seconds = reports[0].compute_seconds + reports[0].wait_seconds
        run.encode_seconds = (run.encode_seconds or 0.0) + seconds
    # Of an interleaved job the page shows decoding as soon as the first chunk is being decoded.
    decoding = Phase.DECODE in (run.phase, (next_step or step).phase)
    run.change(peak_bytes=peaks, phase=Phase.DECODE if decoding else Phase.ENCODE)
