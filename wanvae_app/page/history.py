"""History: the runs that were started from the page or the API, those of earlier starts included."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any, TypeVar

from wanvae_app.jobs.archive import Archive
from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.service import JobService
from wanvae_app.page.archived_entry import make_picture
from wanvae_app.page.compare import psnr
from wanvae_app.page.entry import HistoryEntry, RunInput
from wanvae_app.page.past_runs import PastRuns
from wanvae_app.page.run_json import comparison_json, listed_json, row_json
from wanvae_app.page.unwatched import UNWATCHED_SECONDS, follow_until_end

log = logging.getLogger(__name__)

MAX_OWNERS = 200  # whose runs are counted
MAX_TABLES = 200  # one per owner and input, of all owners together
MAX_ROWS = 12  # of one table
MAX_LISTED = 100  # newest runs of a visitor

Key = TypeVar("Key")
Value = TypeVar("Value")


class History:
    """Entries by run id, while `jobs` or the archive keeps the run; rows of the tables for longer. Thread-safe.

    One thread per run follows it to its end. It stops the run if nobody has watched it for `unwatched_seconds`,
    adds its row, compares it with the run before it that had the same owner and input, and writes it into the archive,
    if there is one.
    """

    def __init__(
        self,
        jobs: JobService,
        unwatched_seconds: float = UNWATCHED_SECONDS,
        archive: Archive | None = None,
    ) -> None:
        self.jobs = jobs
        self.unwatched_seconds = unwatched_seconds
        self.past = PastRuns(archive, jobs.folder)
        for run in jobs.runs():
            if self.past.has(run.id):  # with its frames
                jobs.store.delete(run)
        # Runs that finished before the ranks were restarted: their files can still be downloaded.
        self._entries = {
            run.id: HistoryEntry(run, RunInput(""), number=0, settled=True) for run in jobs.runs()
        }
        self._tables: OrderedDict[tuple[str, str], list[dict[str, Any]]] = (
            OrderedDict()
        )  # by HistoryEntry.key
        self._num_runs: OrderedDict[str, int] = OrderedDict()  # by owner
        self._warm: OrderedDict[str, None] = OrderedDict()  # shapes of what was run, see `_is_cold`
        self._lock = threading.Lock()

    def submit(self, run: JobState, run_input: RunInput) -> HistoryEntry:
        """Queue a run and follow it until its entry is settled. Raises ValueError as JobService.submit does."""
        run.is_pinned = self.past.takes(run)
        self.jobs.submit(run)
        past = self.past.entries(run.owner)
        with self._lock:
            number = 1 + max([self._num_runs.get(run.owner, 0), *(entry.number for entry in past)])
            _put(self._num_runs, run.owner, number, MAX_OWNERS)
            kept = {run.id for run in self.jobs.runs()}
            self._entries = {id: entry for id, entry in self._entries.items() if id in kept}
            entry = self._entries[run.id] = HistoryEntry(run, run_input, number)
        threading.Thread(target=self._follow, args=(entry,), name="history", daemon=True).start()
        return entry

    def get(self, run_id: str, owner: str = "") -> HistoryEntry | None:
        """Return the entry of a run; None if there is no such run, or it was deleted.

        A run of an earlier start is opened if it is the `owner`'s. Raises ValueError, with the numbers, if there is no
        room for its frames.
        """
        entry = self.find(run_id, owner)
        if entry is not None and self.jobs.get(run_id) is None:
            self.jobs.reopen(entry.run)
            with self._lock:
                self._entries[run_id] = entry
        return entry

    def find(self, run_id: str, owner: str = "") -> HistoryEntry | None:
        """Return the entry as `get` does, without opening it."""
        with self._lock:
            entry = self._entries.get(run_id)
        if entry is not None and self.jobs.get(run_id) is not None:
            return entry
        return self.past.get(run_id, owner)

    def delete(self, entry: HistoryEntry) -> None:
        """Forget an ended run, and delete all that is kept of it.

        The number of a run that was never read is free again.
        """
        entry.is_deleted = True
        if not entry.run.is_read:
            self._forget_number(entry)
        with self._lock:
            self._entries.pop(entry.run.id, None)
            table = self._tables.get(entry.key, [])
            table[:] = [row for row in table if row["id"] != entry.run.id]
        self.jobs.store.delete(entry.run)
        self.past.delete(entry.run.id)

    def rows(self, entry: HistoryEntry) -> list[dict[str, Any]]:
        """The ended runs of the entry's owner and input as rows of the page's table, oldest first."""
        past = [other for other in self.past.entries(entry.run.owner) if other.key == entry.key]
        rows = {other.run.id: row_json(other) for other in past}
        with self._lock:
            rows |= {row["id"]: row for row in self._tables.get(entry.key, ())}
        return sorted(rows.values(), key=lambda row: row["number"])[-MAX_ROWS:]

    def listed(self, owner: str) -> list[dict[str, Any]]:
        """The owner's runs, those of earlier starts included, newest first.

        An ended run without frames, which no archive takes, counts as watched: it stays while a page lists it.
        """
        entries = {entry.run.id: entry for entry in self.past.entries(owner)}
        with self._lock:
            here = [entry for entry in self._entries.values() if entry.run.owner == owner]
        entries |= {entry.run.id: entry for entry in here if self.jobs.get(entry.run.id) is not None}
        newest = sorted(entries.values(), key=lambda entry: entry.run.created_at, reverse=True)
        for entry in newest[:MAX_LISTED]:
            if entry.run.ended and not len(entry.run.frames):
                entry.run.seen()
        return [listed_json(entry) for entry in newest[:MAX_LISTED]]

    def _follow(self, entry: HistoryEntry) -> None:
        follow_until_end(entry.run, self.unwatched_seconds)
        try:
            self._settle(entry)
            self.past.keep(entry)
        finally:
            entry.run.is_pinned = False

    def _settle(self, entry: HistoryEntry) -> None:
        """Complete the entry of a run that has ended."""
        if not entry.run.is_read:  # so there is nothing to tell or to compare
            entry.settled = True
            return
        with self._lock:
            entry.is_cold = self._is_cold(entry)
            rows = [*self._tables.get(entry.key, ()), row_json(entry)]
            _put(self._tables, entry.key, rows[-MAX_ROWS:], MAX_TABLES)
        try:
            if len(entry.run.frames):
                entry.picture = make_picture(entry.run.frames)
            if entry.run.status == Status.FINISHED:
                self._compare(entry)
        except ValueError as error:  # the frames were deleted meanwhile
            log.warning("job %s was not compared: %s", entry.run.id[:8], error)
        finally:
            entry.settled = True

    def _is_cold(self, entry: HistoryEntry) -> bool:
        """Whether nothing of a run's shape and VAE was run on these ranks before it, and note it. Hold the lock."""
        key = f"{entry.run.job.vae} {entry.run.job.shape}"
        is_cold = key not in self._warm
        if entry.run.started is not None:
            _put(self._warm, key, None, MAX_TABLES)
        return is_cold

    def _forget_number(self, entry: HistoryEntry) -> None:
        """Let the owner's next run have the number of this one, if none has come after it."""
        with self._lock:
            if self._num_runs.get(entry.run.owner) == entry.number:
                self._num_runs[entry.run.owner] -= 1

    def _compare(self, entry: HistoryEntry) -> None:
        """Compare a finished run with its source, and with the newest finished run before it of the same key."""
        run = entry.run
        if run.source is not None and run.source.height == run.frames.height:
            entry.psnr = psnr(run.source, run.frames)
        with self._lock:
            earlier = [
                other
                for other in self._entries.values()
                if other.key == entry.key
                and other.number < entry.number
                and other.run.status == Status.FINISHED
            ]
        if earlier and not earlier[-1].run.frames.closed:
            entry.comparison = comparison_json(earlier[-1], entry)


def _put(table: OrderedDict[Key, Value], key: Key, value: Value, limit: int) -> None:
    """Set an item as the newest one, and drop the oldest beyond `limit`."""
    table[key] = value
    table.move_to_end(key)
    while len(table) > limit:
        table.popitem(last=False)
