"""How ranks that code alone report to rank 0: as numbered events on torchrun's store."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from datetime import timedelta

from wanvae_app.cli.clip_report import Outcome, Reporter
from wanvae_app.parallel.command_store import open_store
from wanvae_app.parallel.process_group import Group

COUNT = "clip events"  # key of the number of events
SILENCE = timedelta(days=30)


class EventSender:
    """A rank's Reporter: sends what it hears to rank 0."""

    def __init__(self, group: Group) -> None:
        self._store = open_store(group.restarts, group.size)
        self._lock = threading.Lock()

    def begin(self, index: int, num_frames: int) -> None:
        self._send("begin", index, num_frames)

    def advance(self, index: int, num_frames: int) -> None:
        self._send("advance", index, num_frames)

    def end(self, outcome: Outcome) -> None:
        self._send("end", asdict(outcome))

    def finish(self) -> None:
        """Say that nothing will follow from this rank."""
        self._send("finish")

    def _send(self, *event: object) -> None:
        with self._lock:
            number = self._store.add(COUNT, 1)
            self._store.set(f"{COUNT}/{number}", json.dumps(event))


class EventReader:
    """Rank 0: a thread that hands all ranks' events to a Reporter, until each rank has finished.

    It hears events from now on: make it before the ranks begin.
    """

    def __init__(self, group: Group, reporter: Reporter) -> None:
        self._num_ranks = group.size
        self._store = open_store(group.restarts, group.size)  # of its own: it waits
        self._reporter = reporter
        self._number = self._store.add(COUNT, 0)  # of the last event
        self._thread = threading.Thread(target=self._loop, name="events", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until all events were handed on."""
        self._thread.join()

    def _loop(self) -> None:
        num_finished = 0
        while num_finished < self._num_ranks:
            self._number += 1
            key = f"{COUNT}/{self._number}"
            try:
                self._store.wait([key], SILENCE)
                kind, *arguments = json.loads(self._store.get(key))
                self._store.delete_key(key)
            except RuntimeError:  # the store is gone, and this rank is ended
                return
            if kind == "begin":
                self._reporter.begin(*arguments)
            elif kind == "advance":
                self._reporter.advance(*arguments)
            elif kind == "end":
                self._reporter.end(Outcome(**arguments[0]))
            else:
                num_finished += 1
