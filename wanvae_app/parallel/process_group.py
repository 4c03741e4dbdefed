"""Group: the processes that torchrun started, and how they agree.

Rank 0 posts commands; the others wait for them on the store, where an idle month costs nothing. Before every
chunk all ranks agree in one small collective on the CPU. Tensors travel over two groups of their own, which
are thrown away and rebuilt after a failure.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from wanvae_app.device import choose_device, set_up
from wanvae_app.errors import describe
from wanvae_app.parallel.messages import Messages
from wanvae_app.parallel.peer_memory import PeerMemory
from wanvae_app.parallel.watchdog import HUNG, Watchdog

log = logging.getLogger(__name__)

JOINING = timedelta(minutes=5)
IDLE = timedelta(days=30)
# Only a last resort, the watchdog acts first: one chunk of a large clip may take a CPU an hour, and a rank
# without a part in it spends all of that in the agreement.
DATA_TIMEOUT = timedelta(hours=2)
AGREE_TIMEOUT = 3 * DATA_TIMEOUT


class GroupLost(RuntimeError):
    """The ranks cannot reach each other any more; only a restart of all of them helps."""


class Group:
    """This process among its peers. Make it with `join`; only one thread may call its methods.

    `data` carries rows between ranks while a chunk is coded, `frames` carries finished frames to rank 0; both
    are None when there is only one rank. Where GPUs reach each other's memory, `link` carries the rows. `restarts`
    counts torchrun's restarts, and `last_words` says why the last one happened, if anybody knew.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        assert 0 <= rank < size, (rank, size)
        self.rank = rank
        self.size = size
        self.device = device
        self.data: Messages | None = None
        self.frames: Messages | None = None
        self.peer_memory: PeerMemory | None = None
        self.restarts = 0
        self.last_words = ""
        self.watchdog: Watchdog | None = None
        self.broken = False  # the tensors' groups were aborted; what they delivered since is worthless
        self._store: dist.Store | None = None
        self._num_commands = 0  # so far; it numbers the job that the last of them started
        self._aborted = -1
        self._reason = ""
        self._lock = threading.Lock()

    @classmethod
    def join(cls, device: str = "auto") -> Group:
        """The group that torchrun's environment describes; without torchrun, a group of one.

        `device` is auto, cpu or cuda. Raises ValueError if there are fewer GPUs than ranks.
        """
        env = os.environ
        rank, size = int(env.get("RANK", 0)), int(env.get("WORLD_SIZE", 1))
        local_rank, local_size = int(env.get("LOCAL_RANK", 0)), int(env.get("LOCAL_WORLD_SIZE", size))
        group = cls(rank, size, choose_device(device, local_rank, local_size))
        group.restarts = int(env.get("TORCHELASTIC_RESTART_COUNT", 0))
        set_up(group.device, local_size)
        if size > 1:
            group._connect(one_machine=local_size == size)
        return group

    def post(self, command: dict[str, Any]) -> None:
        """Rank 0: give all other ranks their next command, JSON-able. Between two commands all ranks agree."""
        assert self.rank == 0
        self._num_commands += 1
        if self._store is not None:
            self._store.set(f"command/{self._num_commands}", json.dumps(command))
            # Everyone has read the previous command, since all have agreed after it.
            for name in ("command", "failure"):
                self._store.delete_key(f"{name}/{self._num_commands - 1}")
        self.broken = False

    def next_command(self) -> dict[str, Any]:
        """The other ranks: block until rank 0 posts; raises GroupLost when the store is gone."""
        assert self._store is not None and self.rank > 0
        self._num_commands += 1
        key = f"command/{self._num_commands}"
        try:
            self._store.wait([key], IDLE)
            command = json.loads(self._store.get(key))
        except RuntimeError as error:
            raise GroupLost(f"rank {self.rank} lost the store ({describe(error)})") from error
        self.broken = False
        return command

    def begin(self) -> None:
        """A job starts: the watchdog looks after this rank until `end`."""
        if self.watchdog is not None:
            self.watchdog.begin(self._num_commands)

    def end(self) -> None:
        """The job is over on this rank."""
        if self.watchdog is not None:
            self.watchdog.end()

    def waiting(self) -> AbstractContextManager[None]:
        """Around a wait for another rank or another thread: see `Watchdog.waiting`."""
        return self.watchdog.waiting() if self.watchdog is not None else nullcontext()

    def agree(self, report: Sequence[float]) -> list[list[float]]:
        """Everybody's report, by rank; all ranks call it with reports of one length. Blocks until all have.

        Raises GroupLost if a rank does not come.
        """
        mine = torch.tensor(report, dtype=torch.float64)
        if self.size == 1:
            return [mine.tolist()]
        reports = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(reports, mine)
        except RuntimeError as error:
            raise self._lost(error) from error
        return [r.tolist() for r in reports]

    def announce(self, reason: str) -> bool:
        """Say that this rank failed in the present job. The first reason stands: later ones, from ranks that
        lost their neighbour by it, are its consequences. True if this one is the first."""
        self._reason = reason
        if self._store is None:
            return True
        first = self._store.compare_set(f"failure/{self._num_commands}", "", reason)
        return first == reason.encode()

    def reason(self) -> str:
        """What was announced first in the present job."""
        if self._store is None:
            return self._reason
        return self._store.get(f"failure/{self._num_commands}").decode()

    def abort(self, epoch: int) -> None:
        """Break off what the tensors' groups are doing in the job that `begin` gave this number, once; from any
        thread. NCCL's blocked kernels end; gloo does not abort, its peers notice when sockets close, in `drop`.
        """
        with self._lock:
            if epoch <= self._aborted:  # perhaps there are new groups already
                return
            self._aborted = epoch
            self.broken = True
            if self.peer_memory is not None:
                self.peer_memory.abort()
            # At once: the abort of one communicator may wait for that of another.
            threads = [threading.Thread(target=g.abort) for g in (self.data, self.frames) if g is not None]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def drop(self, *names: str) -> None:
        """Close connections after a failure, so that neighbours that wait on them get an error. Messages that were
        started hold on to them: forget these before."""
        self.abort(self._num_commands)
        for name in names:
            messages = getattr(self, name)
            if messages is not None:
                setattr(self, name, None)
                messages.close()

    def rebuild(self) -> None:
        """Make the tensors' groups anew, on all ranks at once. Raises GroupLost if a rank does not come."""
        if self.size == 1:
            self.broken = False
            return
        self.drop("data", "frames")
        try:
            if self.peer_memory is not None:
                self.peer_memory.reset(self.agree)
            self._make_groups()
        except RuntimeError as error:
            raise self._lost(error) from error
        self.broken = False

    def close(self) -> None:
        """Leave; the other ranks must be leaving as well."""
        if self.watchdog is not None:
            self.watchdog.close()
            self.drop("data", "frames")
            dist.destroy_process_group()

    def _lost(self, error: RuntimeError) -> GroupLost:
        try:
            dead = self.watchdog.dead(reaped=False) if self.watchdog is not None else []
        except RuntimeError:  # the store is gone, and torchrun with it
            dead = []
        if dead:
            return GroupLost(f"rank {dead[0]} died")
        return GroupLost(f"rank {self.rank} lost the other ranks ({describe(error)})")

    def _connect(self, one_machine: bool) -> None:
        if one_machine:  # no other machine needs to reach these sockets, so none can
            loopback = "lo0" if sys.platform == "darwin" else "lo"
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
        # Without this the communicator's own watchdog ends the process at the first error; see `abort`.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        # torchrun's store outlives a restart of the ranks: a prefix keeps the dead ones' addresses and
        # commands out of sight. Several clients, because one that waits blocks whoever else uses it.
        self._store = self._open_store(self.restarts)
        self.watchdog = Watchdog(
            self.rank, self.size, self._open_store(self.restarts), self.abort, HUNG[self.device.type]
        )
        self.watchdog.start()
        if self.restarts:
            before = self._open_store(self.restarts - 1)
            self.last_words = before.get("last words").decode() if before.check(["last words"]) else ""
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("groups", self._open_store(self.restarts)),
            rank=self.rank,
            world_size=self.size,
            timeout=AGREE_TIMEOUT,
        )
        self._make_groups()
        self.peer_memory = PeerMemory.connect(self.rank, self.size, self.device, self.agree)

    def _open_store(self, attempt: int) -> dist.Store:
        env = os.environ
        torchrun_has_it = env.get("TORCHELASTIC_USE_AGENT_STORE", "False") == "True"
        is_master = not torchrun_has_it and self.rank == 0 and self._store is None
        store = dist.TCPStore(
            env["MASTER_ADDR"],
            int(env["MASTER_PORT"]),
            self.size,
            is_master,
            timeout=JOINING,
            wait_for_workers=False,
        )
        return dist.PrefixStore(f"wanvae/{attempt}", store)

    def _make_groups(self) -> None:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        groups = [dist.new_group(backend=backend, timeout=DATA_TIMEOUT) for _ in range(2)]
        # The first collective of an NCCL group must be one in which all ranks take part.
        for group in groups:
            dist.all_reduce(torch.zeros(1, device=self.device), group=group)
        assert self.watchdog is not None
        self.data, self.frames = (Messages(group, self.watchdog) for group in groups)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
