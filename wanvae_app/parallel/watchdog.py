"""Watchdog: a thread that ends this rank or another one when its work stops, so that torchrun restarts all ranks."""

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
from typing import NamedTuple

from torch._C._distributed_c10d import Store  # torch.distributed does not declare it

from wanvae_app.parallel.command_store import LAST_WORDS, failure_key
from wanvae_app.parallel.proc_stat import read_process, read_thread

log = logging.getLogger(__name__)

# Seconds for which a rank's thread may neither work nor wait for another rank. On cuda only the GPU may be at work.
IDLE_LIMITS = {"cpu": 5.0, "cuda": 60.0}
# Seconds from one layer's start to the next one's, with all that this thread waits for except other ranks. A CPU needs
# minutes for a large layer. A GPU's thread waits at the end of a chunk of latent frames, for all that the GPU does.
STEP_LIMITS = {"cpu": 600.0, "cuda": 60.0}
LATENT_LIMITS = {"cpu": 0.0, "cuda": 30.0}  # seconds for each latent frame of a chunk, if that is more
TIME_TO_DRAIN = 5.0  # seconds for a GPU to end its work when what other ranks keep it waiting for is aborted
TIME_TO_END = 3.0  # seconds for a rank to end in order, of itself or by torchrun's signal
EXIT_CODE = 70  # tells torchrun to restart the ranks


class Activity(NamedTuple):
    """What changes as long as a rank's thread works."""

    last_tick: float  # seconds of `time.monotonic`
    cpu_time: int  # clock ticks that the thread ran


class Watchdog:
    """Looks after one rank while a job runs, and does nothing otherwise.

    - Any rank announces a failure: calls `on_failure` with the job's number, which wakes this rank's blocked thread.
    - Another rank's heartbeat stops, because the rank was stopped or its machine is gone: kills that rank if it can
      reach it, else ends this process.
    - This rank's thread does nothing for `idle_limit` seconds: ends this process.
    - This rank's thread stays in one step too long: announces a failure, which frees all ranks that wait for another
      one's rows. Ends this process if its thread is not free TIME_TO_DRAIN later: its own device hangs.

    torchrun then restarts all ranks. `store` must be a client of its own, because a client that waits blocks its users.
    """

    def __init__(
        self, rank: int, size: int, store: Store, on_failure: Callable[[int], None], device_type: str = "cpu"
    ) -> None:
        self.rank = rank
        self.size = size
        self.store = store
        self.on_failure = on_failure
        self.idle_limit = IDLE_LIMITS[device_type]
        self.step_limit = STEP_LIMITS[device_type]
        self.latent_limit = LATENT_LIMITS[device_type]
        self.period = 0.5  # seconds between two looks, while a job runs
        self.max_silence = 5.0  # seconds without a heartbeat after which a rank counts as stopped
        self._job_number: int | None = None  # of the present job
        self._changed = threading.Condition()  # of the job number, or of `_closed`
        self._working = False
        self._num_waits = 0  # `waiting` blocks that the worker is in
        self._last_tick = time.monotonic()
        self._where = ""  # what the worker does
        self._limit = self.step_limit  # seconds without a tick, in the present step
        self._can_be_idle = False  # whether the worker may be idle in the present step
        self._worker = (0, 0)  # the thread in `working`, as Python and as Linux numbers it
        self._closed = False
        self._num_heartbeats = 0
        self._thread = threading.Thread(target=self._loop, name="watchdog", daemon=True)

    def start(self) -> None:
        """Tell the other ranks which process this rank is, and start the thread."""
        self.store.set(f"process/{self.rank}", f"{socket.gethostname()} {os.getpid()}")
        self._send_heartbeat()
        self._thread.start()

    def begin_job(self, number: int) -> None:
        """Start to look after this rank. `number` is the job's, the same on all ranks."""
        with self._changed:
            self._job_number = number
            self._changed.notify()

    def end_job(self) -> None:
        """Look after this rank no more."""
        with self._changed:
            self._job_number = None

    @contextmanager
    def working(self, where: str, num_latents: int = 1, can_be_idle: bool = False) -> Iterator[None]:
        """Mark one step of this thread, which must call `tick` at least every `step_limit` seconds.

        `where` describes the step, as in "decoding chunk 2", and `num_latents` says how many latent frames it codes.
        """
        self._where = where
        self._limit = max(self.step_limit, num_latents * self.latent_limit)
        self._can_be_idle = can_be_idle
        self._worker = threading.get_ident(), threading.get_native_id()
        self.tick()
        self._working = True
        try:
            yield
        finally:
            self._working = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a wait of the thread in `working` for another rank or thread: it may be idle for any time.

        Does nothing in other threads.
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
        """Note that this rank's work goes on. Takes any arguments, to be a module's hook."""
        self._last_tick = time.monotonic()

    def dead_ranks(self, reaped: bool) -> list[int]:
        """Return the ranks on this machine whose processes have ended; with `reaped`, only those that torchrun reaped.

        Raises RuntimeError when the store is gone, and torchrun with it.
        """
        dead = []
        for rank in range(self.size):
            host, pid = self._process_of(rank)
            if host == socket.gethostname():
                process = read_process(pid)
                if process is None or (process.state == "Z" and not reaped):
                    dead.append(rank)
        return dead

    def last_words(self) -> str:
        """Return what `leave_last_words` was first called with, on any rank; "" if it was not called."""
        return self.store.get(LAST_WORDS).decode() if self.store.check([LAST_WORDS]) else ""

    def leave_last_words(self, reason: str) -> None:
        """Tell the ranks that come next why these are restarted: which rank died, or else `reason`.

        The first to call this, of all ranks, is heard. Raises RuntimeError when the store is gone.
        """
        dead = self.dead_ranks(reaped=False)
        reason = f"rank {dead[0]} died" if dead else reason
        if self.store.compare_set(LAST_WORDS, "", reason) == reason.encode():
            is_last = os.environ.get("TORCHELASTIC_MAX_RESTARTS") == "0"
            log.error("%s; %s", reason, "all ranks end" if is_last else "the ranks are being restarted")

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        """Watch one job after another, in the watchdog's thread."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._job_number is not None or self._closed)
                    if self._closed:
                        return
                    number = self._job_number
                assert number is not None
                self._watch(number)
        except RuntimeError as error:  # the store is gone, and torchrun with it
            time.sleep(TIME_TO_END)
            log.error("rank %d: the store does not answer: %s", self.rank, error)
            os._exit(EXIT_CODE)

    def _watch(self, number: int) -> None:
        """Look after all ranks every `period` seconds until the job with this number is over."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        heartbeats: dict[int, bytes] = {}
        last_look = last_activity = time.monotonic()
        last_heard = dict.fromkeys(others, last_look)
        activity: Activity | None = None
        failed_at: float | None = None  # when this rank heard that the job fails
        while self._job_number == number and not self._closed:
            self._send_heartbeat()
            now = time.monotonic()
            if (
                now - last_look > self.max_silence / 2
            ):  # this process was stopped, so no other rank is to blame
                last_heard = dict.fromkeys(others, now)
                self.tick()
            last_look = now
            before, activity = activity, self._read_activity()
            if activity is None or activity != before:
                last_activity = now
            elif now - last_activity > self.idle_limit:
                self._end_self(now - last_activity)
            keys = [f"heartbeat/{rank}" for rank in others]
            for rank, heartbeat in zip(others, self.store.multi_get(keys), strict=True):
                if heartbeats.get(rank) != heartbeat:
                    heartbeats[rank], last_heard[rank] = heartbeat, now
                elif now - last_heard[rank] > self.max_silence:
                    self._end_rank(rank, now - last_heard[rank])
                    last_heard[rank] = now
            seconds = now - self._last_tick
            if self._working and not self._num_waits and seconds > self._limit:
                if failed_at is None:
                    reason = f"Rank {self.rank} waited {seconds:.0f} s for its device or another rank's rows"
                    self.store.compare_set(failure_key(number), "", f"{reason} in {self._where}")
                elif now - failed_at > TIME_TO_DRAIN:
                    self._end_self(seconds)
            if failed_at is None and self.store.check([failure_key(number)]):
                failed_at = now
                # In a thread of its own, because an abort waits for a device, which may hang.
                threading.Thread(target=self.on_failure, args=(number,), name="abort", daemon=True).start()
            with self._changed:
                self._changed.wait_for(lambda: self._job_number != number or self._closed, self.period)

    def _send_heartbeat(self) -> None:
        self._num_heartbeats += 1
        self.store.set(f"heartbeat/{self.rank}", str(self._num_heartbeats))

    def _read_activity(self) -> Activity | None:
        """Return the activity of this rank's thread; None while nothing can be blamed on it.

        It is not to blame outside of `working`, within `waiting`, in a step where it can be idle, while it runs or
        waits for a disk, and where the system does not tell.
        """
        if not self._working or self._num_waits or self._can_be_idle:
            return None
        thread = read_thread(self._worker[1])
        if thread is None or thread.state != "S":
            return None
        return Activity(self._last_tick, thread.cpu_time)

    def _process_of(self, rank: int) -> tuple[str, int]:
        """Return host name and process id of a rank."""
        host, pid = self.store.get(f"process/{rank}").decode().split()
        return host, int(pid)

    def _end_rank(self, rank: int, seconds: float) -> None:
        """End a rank that was silent for so long, or this one if that rank is out of reach."""
        host, pid = self._process_of(rank)
        self.leave_last_words(f"rank {rank} gave no sign of life for {seconds:.0f} s")
        process = read_process(pid) if host == socket.gethostname() else None
        if process is not None and process.parent == os.getppid():
            os.kill(pid, signal.SIGKILL)  # SIGTERM does not reach a stopped process
        else:
            os._exit(EXIT_CODE)

    def _end_self(self, seconds: float) -> None:
        """End this process, whose thread was stuck for so long, and print where all its threads are."""
        self.leave_last_words(f"rank {self.rank} was stuck for {seconds:.0f} s in {self._where}")
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_CODE)
