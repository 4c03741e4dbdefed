"""FairQueue: the runs that wait, in an order that is fair to their owners."""

from __future__ import annotations

from wanvae_app.jobs.job_state import JobState

MAX_QUEUED = 32  # runs that wait
MAX_PER_OWNER = 8  # of them
MAX_PER_ADDRESS = 16  # of them; several visitors may share an address


class FairQueue:
    """Every owner's first waiting run comes before any owner's second one, and so on.

    Of two first runs, that of the owner who was served less recently comes first, and then the older one; likewise of
    two second runs. A run whose input is not read yet is overtaken, but not by those that
    come `after` it. `current` is the run that is being worked on. Not
    thread-safe: its user holds a lock.
    """

    def __init__(self) -> None:
        self.current: JobState | None = None
        self._waiting: list[JobState] = []  # the next one first
        self._served: list[str] = []  # owners served since nobody waited, the latest last

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self) -> list[JobState]:
        """Return the runs that wait, the next one first."""
        return list(self._waiting)

    @property
    def has_ready(self) -> bool:
        """Whether a waiting run can start."""
        return any(self._is_ready(run) for run in self._waiting)

    def refusal(self, run: JobState) -> str:
        """Say in a sentence why no place is left for this run; return "" if there is one."""
        num_own = sum(other.owner == run.owner for other in self._waiting)
        num_near = sum(other.address == run.address for other in self._waiting)
        advice = "try again when some of them are done"
        if run.owner and num_own >= MAX_PER_OWNER:
            return f"{num_own} of your runs are waiting already, as many as one visitor may have; {advice}."
        if run.address and num_near >= MAX_PER_ADDRESS:
            return f"{num_near} runs from your address are waiting already, as many as may; {advice}."
        if len(self._waiting) >= MAX_QUEUED:
            return f"{MAX_QUEUED} runs are waiting already; {advice}."
        return ""

    def add(self, run: JobState) -> None:
        """Queue a run."""
        self._waiting.append(run)
        self._sort()

    def remove(self, run: JobState) -> bool:
        """Take a run out of the queue. Return False if it was not waiting."""
        if run not in self._waiting:
            return False
        self._waiting.remove(run)
        self._sort()
        return True

    def start_next(self) -> JobState:
        """Take the first run that can start out of the queue, make it the current one, and return it."""
        self.current = next(run for run in self._waiting if self._is_ready(run))
        self._waiting.remove(self.current)
        self._served = [owner for owner in self._served if owner != self.current.owner] + [self.current.owner]
        self._sort()
        return self.current

    def _is_ready(self, run: JobState) -> bool:
        """Whether the run's input is read, and the run that it comes after waits no more."""
        return run.is_read and all(other.id != run.after for other in self._waiting)

    def end_current(self) -> None:
        """Note that the current run has ended."""
        self.current = None
        if not self._waiting:
            self._served.clear()
        self._sort()

    def clear(self) -> list[JobState]:
        """Forget all runs. Return them: the current one, then those that waited."""
        runs = [*([self.current] if self.current is not None else []), *self._waiting]
        self.current = None
        self._waiting = []
        return runs

    def _sort(self) -> None:
        num_runs: dict[str, int] = {}  # by owner
        served = {owner: place for place, owner in enumerate(self._served)}
        keys = {}
        for run in sorted(self._waiting, key=lambda run: run.created):
            num_runs[run.owner] = num_runs.get(run.owner, 0) + 1
            keys[run.id] = (num_runs[run.owner], served.get(run.owner, -1), run.created)
        self._waiting.sort(key=lambda run: keys[run.id])
        for place, run in enumerate(self._waiting, start=0 if self.current is None else 1):
            if run.num_runs_before != place:
                run.change(num_runs_before=place)
