"""Watchdog: a thread beside each rank's work that notices what the work cannot: a failed or stopped peer."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

log = logging.getLogger(__name__)

# Seconds in which a rank's thread may neither work nor wait for another rank; a GPU may be all that works.
HUNG = {"cpu": 5.0, "cuda": 60.0}
FAREWELL = 3.0  # seconds for a rank to end in order, of itself or by a signal
EXIT_CODE = 70  # tells torchrun to restart the ranks


class Watchdog:
    """Looks after one rank while a job runs; idle otherwise.

    - A failure announced by any rank: calls `on_failure` with the job's epoch, to wake this rank's blocked thread.
    - A rank that gives no sign of life (stopped, its machine gone): ends it where it can be reached.
    - This rank stuck in one place, or idle for `hung` seconds where it should work: ends this process.

    torchrun then restarts all ranks. `store` must be a client of its own: a waiting one blocks its users.
    """

    def __init__(
        self, rank: int, size: int, store: dist.Store, on_failure: Callable[[int], None], hung: float
    ) -> None:
        self.rank = rank
        self.size = size
        self.store = store
        self.on_failure = on_failure
        self.hung = hung
        self.period = 0.5  # seconds between looks, while a job runs
        self.silence = 5.0  # seconds without a sign of life after which a rank counts as stopped
        self.layer_timeout = (
            600.0  # seconds that a rank may spend in one layer; a CPU needs minutes for a large one
        )
        self._epoch: int | None = None  # of the present job
        self._changed = threading.Condition()
        self._working = False
        self._num_waits = 0  # `waiting` blocks that the worker is in
        self._last_tick = time.monotonic()
        self._where = ""
        self._worker = (0, 0)  # the thread in `working`, as Python and as the system numbers it
        self._closed = False
        self._num_beats = 0
        self._thread = threading.Thread(target=self._loop, name="watchdog", daemon=True)

    def start(self) -> None:
        """Sign in, so that the others can look for this rank, and start the thread."""
        self.store.set(f"process/{self.rank}", f"{socket.gethostname()} {os.getpid()}")
        self._beat()
        self._thread.start()

    def begin(self, epoch: int) -> None:
        """A job starts; `epoch` numbers it on all ranks alike."""
        with self._changed:
            self._epoch = epoch
            self._changed.notify()

    def end(self) -> None:
        """The job is over."""
        with self._changed:
            self._epoch = None

    @contextmanager
    def working(self, where: str) -> Iterator[None]:
        """Around one chunk: within it, `tick` must be called at least every `layer_timeout` seconds."""
        self._where = where
        self._worker = threading.get_ident(), threading.get_native_id()
        self.tick()
        self._working = True
        try:
            yield
        finally:
            self._working = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around each place where the thread in `working` waits for another rank or another thread.

        Such a wait may take as long as that one works, and is no sign that this rank hangs. Does nothing in any other
        thread.
        """
        if threading.get_ident() != self._worker[0]:
            yield
            return
        self._num_waits += 1
        try:
            yield
        finally:
            self._num_waits -= 1

    def tick(self, *_: object) -> None:
        """A sign that this rank's work goes on; any arguments, so that it can be a module's hook."""
        self._last_tick = time.monotonic()

    def dead(self, reaped: bool) -> list[int]:
        """The ranks of this machine whose processes have ended; with `reaped`, of which torchrun has heard.

        Raises RuntimeError when the store, and torchrun with it, is gone.
        """
        found = []
        for rank in range(self.size):
            host, pid = self.store.get(f"process/{rank}").decode().split()
            if host == socket.gethostname():
                state, _ = _process(int(pid))
                if state == "" or (state == "Z" and not reaped):
                    found.append(rank)
        return found

    def last_words(self, reason: str) -> None:
        """Tell the ranks' successors why they are being restarted: who died, or else `reason`. What is said
        first stands. Raises RuntimeError as `dead`."""
        dead = self.dead(reaped=False)
        reason = f"rank {dead[0]} died" if dead else reason
        log.error("%s; the ranks are being restarted", reason)
        self.store.compare_set("last words", "", reason)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _beat(self) -> None:
        self._num_beats += 1
        self.store.set(f"alive/{self.rank}", str(self._num_beats))

    def _loop(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._epoch is not None or self._closed)
                    if self._closed:
                        return
                    epoch = self._epoch
                assert epoch is not None
                self._watch(epoch)
        except RuntimeError as error:  # the store is gone, and torchrun with it
            time.sleep(FAREWELL)
            log.error("rank %d: the store does not answer: %s", self.rank, error)
            os._exit(EXIT_CODE)

    def _watch(self, epoch: int) -> None:
        others = [rank for rank in range(self.size) if rank != self.rank]
        beats: dict[int, bytes] = {}
        heard = dict.fromkeys(others, time.monotonic())
        failed = False
        looked = rested = time.monotonic()
        signs: tuple[float, int] | None = None  # of this rank's work
        while self._epoch == epoch and not self._closed:
            self._beat()
            now = time.monotonic()
            if (
                now - looked > self.silence / 2
            ):  # this process itself was stopped: then nobody else is to blame
                heard = dict.fromkeys(others, now)
                self.tick()
            looked = now
            before, signs = signs, self._signs_of_work()
            if signs is None or signs != before:
                rested = now
            elif now - rested > self.hung:
                self._end_self(now - rested)
            for rank, beat in zip(others, self.store.multi_get([f"alive/{r}" for r in others]), strict=True):
                if beats.get(rank) != beat:
                    beats[rank], heard[rank] = beat, now
                elif now - heard[rank] > self.silence:
                    self._end_rank(rank, now - heard[rank])
                    heard[rank] = now
            if self._working and now - self._last_tick > self.layer_timeout:
                self._end_self(now - self._last_tick)
            if not failed and self.store.check([f"failure/{epoch}"]):
                failed = True
                self.on_failure(epoch)
            with self._changed:
                self._changed.wait_for(lambda: self._epoch != epoch or self._closed, self.period)

    def _signs_of_work(self) -> tuple[float, int] | None:
        """What changes while this rank's thread works: its last tick and its CPU time. None while it has nothing to
        do, is in a `waiting` block, waits for the disk, or where the system does not say."""
        if not self._working or self._num_waits:
            return None
        try:
            with open(f"/proc/self/task/{self._worker[1]}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        in_user, in_system = fields[11:13]
        return (self._last_tick, int(in_user) + int(in_system)) if fields[0] == "S" else None

    def _end_rank(self, rank: int, seconds: float) -> None:
        host, pid = self.store.get(f"process/{rank}").decode().split()
        self.last_words(f"rank {rank} gave no sign of life for {seconds:.0f} s")
        if host == socket.gethostname() and _process(int(pid))[1] == os.getppid():
            os.kill(int(pid), signal.SIGKILL)  # SIGTERM does not reach a stopped process
        else:
            os._exit(EXIT_CODE)

    def _end_self(self, seconds: float) -> None:
        self.last_words(f"rank {self.rank} was stuck for {seconds:.0f} s in {self._where}")
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_CODE)


def _process(pid: int) -> tuple[str, int]:
    """State ("Z" for one that has ended and whose parent has not asked yet) and parent; ("", 0) if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except OSError:
        return "", 0
    return state, int(parent)
