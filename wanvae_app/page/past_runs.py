"""PastRuns: the entries of an archive, by the visitor who asks."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from wanvae_app.errors import describe
from wanvae_app.jobs.archive import MAX_RUNS, Archive, ArchivedRun
from wanvae_app.jobs.job_state import JobState
from wanvae_app.page.archived_entry import archive_entry, owner_key, restore_entry
from wanvae_app.page.entry import HistoryEntry

log = logging.getLogger(__name__)

MAX_RESTORED = 2 * MAX_RUNS  # entries, those of runs that other apps have deleted included


class PastRuns:
    """What History knows of its archive; without one, there are no past runs. Thread-safe.

    Frames of past runs are decoded into `folder`.
    """

    def __init__(self, archive: Archive | None, folder: Path) -> None:
        self._archive = archive
        self._folder = folder
        self._lock = threading.Lock()
        self._restored: dict[str, HistoryEntry] = {}  # by run id, all of them in the archive
        self._unreadable: set[str] = set()  # ids of runs
        self._writing = threading.Lock()  # one run at a time

    @property
    def is_kept(self) -> bool:
        """Whether runs of browsers outlive the app."""
        return self._archive is not None

    def takes(self, run: JobState) -> bool:
        """Whether a run is to be kept when it has ended."""
        return self._archive is not None and owner_key(run.owner) != ""

    def has(self, run_id: str) -> bool:
        """Whether a run is there, whoever's it is."""
        return self._archive is not None and self._archive.get(run_id) is not None

    def get(self, run_id: str, owner: str) -> HistoryEntry | None:
        """Return the entry of this owner's run, None if there is none."""
        archived = self._archive.get(run_id) if self._archive is not None else None
        if archived is None or archived.owner != (owner_key(owner) or None):
            return None
        return self._restore(archived, owner)

    def entries(self, owner: str) -> list[HistoryEntry]:
        """Return the owner's entries, oldest first."""
        key = owner_key(owner)
        if self._archive is None or not key:
            return []
        found = [self._restore(archived, owner) for archived in self._archive.runs(key)]
        return [entry for entry in found if entry is not None]

    def keep(self, entry: HistoryEntry) -> None:
        """Write an ended run into the archive; `entry.problem` says why if that fails."""
        run = entry.run
        if self._archive is None or not self.takes(run) or not len(run.frames):
            return
        try:
            with self._writing:
                archive_entry(self._archive, entry)
        except ValueError as error:  # the run was deleted meanwhile
            log.info("job %s is not in the history: %s", run.id[:8], error)
        except Exception as error:
            is_ours = isinstance(error, OSError)
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else describe(error)
            log.warning("job %s is not in the history: %s", run.id[:8], reason, exc_info=not is_ours)
            entry.problem = f"Not kept in the history: {reason.removesuffix('.')}."
        if entry.is_deleted:
            self.delete(run.id)

    def delete(self, run_id: str) -> None:
        """Delete a run from the archive, if it is there."""
        if self._archive is not None:
            self._archive.delete(run_id)

    def _restore(self, archived: ArchivedRun, owner: str) -> HistoryEntry | None:
        """Return the entry of an archived run; None for one that cannot be read, which is logged once.

        It is made once, and again after its frames were freed.
        """
        with self._lock:
            entry = self._restored.get(archived.id)
            if entry is not None and not entry.run.frames.closed:
                return entry
            if archived.id in self._unreadable:
                return None
            try:
                entry = restore_entry(archived, owner, self._folder)
            except Exception as error:  # whatever lies there
                log.warning("run %s of the history is skipped: %s", archived.id[:8], describe(error))
                self._unreadable.add(archived.id)
                return None
            if len(self._restored) >= MAX_RESTORED:
                self._restored = {id: kept for id, kept in self._restored.items() if self.has(id)}
            self._restored[archived.id] = entry
            return entry
