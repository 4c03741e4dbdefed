"""Turns: the queue of runs, in an order that is fair to their owners. Not locked; its user holds a lock."""

from __future__ import annotations

from wanvae_app.jobs.job import JobState


class FairQueue:
    """Everybody's first run comes before anybody's second; among equals, that of who has waited longest for a turn, and
    then the older one. `current` is the run that is being worked on.
    """

    def __init__(self) -> None:
        self.current: JobState | None = None
        self._waiting: list[JobState] = []
        self._served: list[str] = []  # owners who have had a turn while others waited, the latest last

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, run: JobState) -> None:
        """Queue a run."""
        self._waiting.append(run)
        self._order()

    def remove(self, run: JobState) -> bool:
        """Take a run out; False if it was not waiting."""
        if run not in self._waiting:
            return False
        self._waiting.remove(run)
        self._order()
        return True

    def next(self) -> JobState:
        """Take the first run out; it becomes the current one."""
        self.current = self._waiting.pop(0)
        self._served = [owner for owner in self._served if owner != self.current.owner] + [self.current.owner]
        self._order()
        return self.current

    def done(self) -> None:
        """The current run has ended."""
        self.current = None
        if not self._waiting:
            self._served.clear()
        self._order()

    def clear(self) -> list[JobState]:
        """Take everything out; returns the current run and those that waited."""
        runs = [*([self.current] if self.current is not None else []), *self._waiting]
        self.current = None
        self._waiting = []
        return runs

    def _order(self) -> None:
        turns: dict[str, int] = {}
        served = {owner: place for place, owner in enumerate(self._served)}
        keys = {}
        for run in sorted(self._waiting, key=lambda run: run.created):
            turns[run.owner] = turns.get(run.owner, 0) + 1
            keys[run.id] = (turns[run.owner], served.get(run.owner, -1), run.created)
        self._waiting.sort(key=lambda run: keys[run.id])
        for place, run in enumerate(self._waiting, start=0 if self.current is None else 1):
            if run.place != place:
                run.change(place=place)
