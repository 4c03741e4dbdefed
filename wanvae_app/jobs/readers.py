"""Readers: threads that read the inputs of queued runs, beside the decoding."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable

from wanvae_app.errors import tell
from wanvae_app.jobs.budget import Budget, amount, needs_of
from wanvae_app.jobs.fair_queue import FairQueue
from wanvae_app.jobs.job_state import JobState, Needs
from wanvae_app.jobs.run_setup import set_input, set_shape
from wanvae_app.jobs.vae_cache import VaeCache

log = logging.getLogger(__name__)

NUM_THREADS = 4
MAX_PLANNING = 2  # inputs whose headers are read at once
SMALL = 2**25  # bytes that a small input takes; small ones are read at once
MAX_LARGE = 1  # large inputs that are read at once
READ_AHEAD = 2  # large inputs that are being read, or are read and wait


class Readers:
    """Reads inputs in the order of the queue: all headers, small inputs at once, large ones shortly before their turn.

    So one thread at least is always free for a small input. A run that is stopped meanwhile leaves nothing behind.
    `changed` is the condition that guards the queue. `refuse` ends a run whose input cannot be used; it gets a
    sentence. `waiting_message` says what a run tells when its input is read.
    """

    def __init__(
        self,
        changed: threading.Condition,
        queue: FairQueue,
        budget: Budget,
        vaes: VaeCache,
        num_ranks: int,
        refuse: Callable[[JobState, str], None],
        waiting_message: Callable[[], str],
    ) -> None:
        self._changed = changed
        self._queue = queue
        self._budget = budget
        self._vaes = vaes
        self._num_ranks = num_ranks
        self._refuse = refuse
        self._waiting_message = waiting_message
        self._planning: set[str] = set()  # ids of runs
        self._reading: set[str] = set()
        self._blocked: set[str] = set()  # for which there is no room now
        self._num_wakes = 0
        self._closing = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads, once."""
        with self._changed:
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._loop, name=f"reader {i}", daemon=True)
                    for i in range(NUM_THREADS)
                ]
                for thread in self._threads:
                    thread.start()

    def wake(self) -> None:
        """Look again for something to read: a run was queued, or one has ended and left room."""
        with self._changed:
            self._num_wakes += 1
            self._blocked.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads. All runs must have been stopped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next() is not None)
                found = self._next()
                if self._closing or found is None:
                    return
                run, work, busy = found
                busy.add(run.id)
            try:
                work(run)
            except Exception as error:  # whatever a file may provoke: this thread must live on
                if not (run.stop_requested or run.ended):
                    if not isinstance(error, (ValueError, OSError)):
                        log.exception("%s was not accepted", run.name)
                    self._refuse(run, tell(error, run.name))
            finally:
                with self._changed:
                    busy.discard(run.id)
                    self._changed.notify_all()
                del run, work, found  # these would keep a deleted run in memory until the next one comes

    def _next(self) -> tuple[JobState, Callable[[JobState], None], set[str]] | None:
        """The first run in the queue's order that a thread can work on, and the work."""
        waiting = self._queue.waiting()
        large = [run for run in waiting if run.plan is not None and not _is_small(run)]
        num_ahead = sum(run.is_read or run.id in self._reading for run in large)
        num_large = sum(run.id in self._reading for run in large)
        for run in waiting:
            if run.is_read or run.id in self._planning | self._reading | self._blocked:
                continue
            if run.plan is None:
                if len(self._planning) < MAX_PLANNING:
                    return run, self._plan, self._planning
            elif _is_small(run) or (num_large < MAX_LARGE and num_ahead < READ_AHEAD):
                return run, self._read, self._reading
        return None

    def _plan(self, run: JobState) -> None:
        assert run.unread is not None
        plan = run.unread.plan(lambda: run.stop_requested or run.ended)
        config = self._vaes[run.job.vae].config
        self._budget.check(run.name, run.owner, needs_of(plan, config))
        with self._changed:
            set_shape(run, plan.shape, config, self._num_ranks)
            run.change(plan=plan)

    def _read(self, run: JobState) -> None:
        unread, store = run.unread, self._budget.store
        assert unread is not None and run.plan is not None
        vae = self._vaes[run.job.vae]
        needs = needs_of(run.plan, vae.config)
        num_wakes = self._num_wakes
        if not self._budget.grant(run, needs):
            with self._changed:
                if num_wakes == self._num_wakes:  # else room may have come meanwhile
                    self._blocked.add(run.id)
            self._tell(run, f"Waiting for room: it needs about {amount(max(needs))}.")
            return
        run.is_reading = True
        self._tell(run, "Reading.")
        folder = store.folder_or_none()
        found = None
        try:
            found = unread.read(
                folder, lambda message: self._tell(run, message), lambda: run.stop_requested or run.ended
            )
            with self._changed:  # so that `stop` comes before or after, not in between
                if run in self._queue.waiting():
                    set_input(run, found, folder or store.folder, vae, self._num_ranks)
                    run.needs = Needs(needs.disk, run.plan.memory_bytes)
                    run.change(unread=None, is_reading=False, message=self._waiting_message())
                    folder = found = None
                    self._changed.notify_all()
        finally:
            run.is_reading = False
            if found is not None and found.source is not None:
                found.source.close()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def _tell(self, run: JobState, message: str) -> None:
        """Set the run's message, unless it has ended: then its last one says why."""
        with self._changed:
            if run in self._queue.waiting():
                run.change(message=message)


def _is_small(run: JobState) -> bool:
    assert run.plan is not None
    return run.plan.source_bytes + run.plan.memory_bytes <= SMALL
