"""Results: the runs that pages started, what came out of them, and how the last two of one input compare."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.service import JobService
from wanvae_app.page.compare import difference, psnr

log = logging.getLogger(__name__)

GRACE = 6.0  # seconds that a run goes on with nobody watching: enough for a page to reload
PATIENCE = 5  # times as long for a run that only waits
MAX_INPUTS = 200  # of which the table's rows are kept, of all owners together
MAX_ROWS = 12  # per input


@dataclass(frozen=True)
class Given:
    """What a run was started with, as the page shows it; `digest` tells whether two runs had the same input."""

    digest: str
    scaling: str = ""  # "normalised" or "raw"; empty for a video
    note: str = ""  # what was done to the input before the run, and why


@dataclass
class Entry:
    """One run and what became known about it. `settled` once nothing will be added."""

    run: JobState
    given: Given
    number: int  # counts its owner's runs, from 1
    settled: bool = False
    psnr: float | None = None  # dB, of a roundtrip; inf if nothing differs
    comparison: dict[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Alike for runs of one owner and input."""
        return self.run.owner, self.given.digest


class History:
    """Entries by run id, for as long as `jobs` keeps the run; rows of the table for longer. Thread-safe.

    A run that nobody has asked for during `grace` seconds, or PATIENCE times as long in the queue, is stopped: its page
    was closed.
    """

    def __init__(self, jobs: JobService, grace: float = GRACE) -> None:
        self.jobs = jobs
        self.grace = grace
        # What was finished before the ranks were restarted can still be downloaded.
        self._entries = {run.id: Entry(run, Given(""), 0, settled=True) for run in jobs.runs()}
        self._rows: OrderedDict[tuple[str, str], list[dict[str, Any]]] = OrderedDict()
        self._num_runs: OrderedDict[str, int] = OrderedDict()  # by owner
        self._lock = threading.Lock()

    def submit(self, run: JobState, given: Given) -> Entry:
        """Queue a run and follow it until it has ended and is compared. Raises ValueError as Jobs.submit."""
        self.jobs.submit(run)
        with self._lock:
            number = self._num_runs.pop(run.owner, 0) + 1
            self._num_runs[run.owner] = number
            while len(self._num_runs) > MAX_INPUTS:
                self._num_runs.popitem(last=False)
            kept = {run.id for run in self.jobs.runs()}
            self._entries = {id: entry for id, entry in self._entries.items() if id in kept}
            entry = self._entries[run.id] = Entry(run, given, number)
        threading.Thread(target=self._follow, args=(entry,), name="results", daemon=True).start()
        return entry

    def get(self, run_id: str) -> Entry | None:
        """The entry of a run, None if there is none or it was deleted."""
        with self._lock:
            entry = self._entries.get(run_id)
        return entry if entry is not None and self.jobs.get(run_id) is not None else None

    def rows(self, entry: Entry) -> list[dict[str, Any]]:
        """The ended runs of the same owner and input, oldest first, as rows of the page's table."""
        with self._lock:
            return list(self._rows.get(entry.key, ()))

    def _follow(self, entry: Entry) -> None:
        run, version = entry.run, None
        while not run.ended:
            version = run.wait(0.5, version)
            grace = self.grace * (PATIENCE if run.status == Status.QUEUED else 1)
            if time.monotonic() - run.last_seen > grace and not run.stop_requested:
                log.info("job %s: nobody is watching, so it is stopped", run.id[:8])
                run.stop(f"no page had asked for it for {grace:.0f} s")
        with self._lock:
            rows = self._rows.setdefault(entry.key, [])
            self._rows.move_to_end(entry.key)
            rows.append(make_row(entry))
            del rows[:-MAX_ROWS]
            while len(self._rows) > MAX_INPUTS:
                self._rows.popitem(last=False)
        try:
            if run.status == Status.FINISHED:
                self._compare(entry)
        except ValueError as error:  # the frames were deleted meanwhile
            log.warning("job %s was not compared: %s", run.id[:8], error)
        finally:
            entry.settled = True

    def _compare(self, entry: Entry) -> None:
        run = entry.run
        if run.source is not None and run.source.height == run.frames.height:
            entry.psnr = psnr(run.source, run.frames)
        with self._lock:
            before = [
                other
                for other in self._entries.values()
                if other.key == entry.key
                and other.number < entry.number
                and other.run.status == Status.FINISHED
            ]
        if before and not before[-1].run.frames.closed:
            entry.comparison = compare(before[-1], entry)


def make_row(entry: Entry) -> dict[str, Any]:
    """An ended run as a row of the page's table; seconds, frames per second and bytes."""
    run = entry.run
    return {
        "number": entry.number,
        "state": run.status,
        "parallel": run.job.parallel,
        "ranks": run.num_ranks,
        "chunk": run.job.chunk,
        "frames": len(run.frames),
        "seconds": seconds(run),
        "first": run.first_frame - run.started if run.first_frame and run.started else None,
        "rate": rate(run),
        "encode": run.encode_seconds,
        "peak": list(run.peak_bytes),
    }


def seconds(run: JobState) -> float | None:
    """How long a run worked, from its start on all ranks to its last frame; None if it never began."""
    return run.finished - run.started if run.finished and run.started else None


def rate(run: JobState) -> float | None:
    """Decoded frames per second so far: from the start to the newest frame, without what encoding took until then."""
    if run.started is None or not len(run.frames):
        return None
    newest = run.frames.times[-1] - run.started
    before = [a for a in run.activity if a.phase == "encode" and a.rank == 0 and a.start < newest]
    encoding = sum(a.compute_seconds + a.wait_seconds for a in before)
    spent = newest - (encoding if run.activity else run.encode_seconds or 0.0)
    return len(run.frames) / spent if spent > 0 else None


def compare(before: Entry, after: Entry) -> dict[str, Any]:
    """How much faster the second of two finished runs of one input was, and where their frames differ most."""
    found = difference(before.run.frames, after.run.frames)
    first, second = seconds(before.run), seconds(after.run)
    return {
        "before": before.number,
        "after": after.number,
        "parallel": [before.run.job.parallel, after.run.job.parallel],
        "speedup": first / second if first and second else None,
        "max_abs": found.max_abs,
        "frame": found.frame,
        "row": found.row,
        "column": found.column,
        "num_different": found.num_different,
        "num_pixels": found.num_pixels,
    }


def finite(value: float | None) -> float | str | None:
    """A number as JSON can carry it: infinity as a word."""
    return "inf" if value is not None and math.isinf(value) else value
