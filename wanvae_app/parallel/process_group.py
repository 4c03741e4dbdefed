"""Group: the processes that torchrun started, and how they agree.

Rank 0 posts commands on the store, and the others wait there for them. Before every chunk all ranks agree in one small
collective on the CPU. Tensors travel over two process groups of their own, which are dropped and rebuilt after a
failure.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore  # torch.distributed does not declare it

from wanvae_app.device import choose_device, device_name, refuse_mixed_devices, set_up
from wanvae_app.errors import describe
from wanvae_app.parallel.command_store import LAST_WORDS, CommandStore, open_store
from wanvae_app.parallel.messages import Messages
from wanvae_app.parallel.network import interface_towards
from wanvae_app.parallel.peer_access import connect_peer_memory
from wanvae_app.parallel.watchdog import Watchdog

if TYPE_CHECKING:  # it needs Triton
    from wanvae_app.parallel.peer_memory import PeerMemory

log = logging.getLogger(__name__)

# A last resort only, because the watchdog acts long before. One chunk of a large clip may take a CPU an hour, and a
# rank that owns no part of the picture spends all of it waiting to agree.
DATA_TIMEOUT = timedelta(hours=2)
AGREE_TIMEOUT = 3 * DATA_TIMEOUT
# Unless somebody left other words: rank 0 leaves them when another rank dies, but nobody outlives rank 0.
RANK_0_DIED = "rank 0 died"


def torchrun_has_store() -> bool:
    """Whether this process runs under a torchrun that serves the ranks' store itself."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "False") == "True"


class GroupLost(RuntimeError):
    """The ranks cannot reach each other any more; only a restart of all of them helps."""


class Group:
    """This process among its peers. Make it with `join`; only one thread may call its methods, except `abort`.

    `data` carries rows between ranks while a chunk is coded, and `frames` carries finished frames to rank 0. Both are
    None if there is only one rank. Where GPUs reach each other's memory, `peer_memory` carries the rows. `restarts`
    counts how often torchrun restarted the ranks, and `last_words` says why it did so last, if that is known.
    `device_names` is what people call the ranks' devices, by rank.
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
        self.device_names = [device_name(device)] * size
        self.watchdog: Watchdog | None = None
        self.broken = False  # exchanges were aborted: what they delivered since then is undefined
        self._commands = CommandStore(None)
        self._last_aborted = -1  # number of the last job that was aborted
        self._lock = threading.Lock()  # of `abort`

    @classmethod
    def join(cls, device: str = "auto") -> Group:
        """Join the ranks that torchrun's environment describes; without torchrun, be a single rank.

        `device` is auto, cpu or cuda. Raises ValueError if there are fewer GPUs than ranks, or if only some ranks have
        GPUs.
        """
        env = os.environ
        rank, size = int(env.get("RANK", 0)), int(env.get("WORLD_SIZE", 1))
        local_rank, local_size = int(env.get("LOCAL_RANK", 0)), int(env.get("LOCAL_WORLD_SIZE", size))
        group = cls(rank, size, choose_device(device, local_rank, local_size))
        group.restarts = int(env.get("TORCHELASTIC_RESTART_COUNT", 0))
        if group.restarts:
            group.last_words = RANK_0_DIED
        set_up(group.device, local_size)
        if size > 1:
            group._connect(one_machine=local_size == size)
        elif torchrun_has_store():  # else nobody would restart this rank
            group._start_watchdog()
        return group

    def post(self, command: dict[str, Any]) -> None:
        """Rank 0: give all other ranks their next command, which JSON can hold.

        All ranks must have called `agree` since the last command.
        """
        assert self.rank == 0
        self._commands.post(command)
        self.broken = False

    def next_command(self) -> dict[str, Any]:
        """The other ranks: wait for rank 0's next command. Raises GroupLost when the store is gone."""
        assert self.rank > 0
        try:
            command = self._commands.wait()
        except RuntimeError as error:
            raise GroupLost(f"rank {self.rank} lost the store ({describe(error)})") from error
        self.broken = False
        return command

    def begin_job(self) -> None:
        """Start the job of the last command: the watchdog looks after this rank until `end_job`."""
        if self.watchdog is not None:
            self.watchdog.begin_job(self._commands.number)

    def end_job(self) -> None:
        """End the job on this rank."""
        if self.watchdog is not None:
            self.watchdog.end_job()

    def waiting(self) -> AbstractContextManager[None]:
        """Mark a wait for another rank or another thread: see `Watchdog.waiting`."""
        return self.watchdog.waiting() if self.watchdog is not None else nullcontext()

    def agree(self, report: Sequence[float]) -> list[list[float]]:
        """Return every rank's report, by rank. All ranks call this, with reports of one length.

        Blocks until all ranks have called it. Raises GroupLost if a rank does not.
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

    def share(self, text: str) -> list[str]:
        """Return every rank's text, by rank. All ranks call this. Raises GroupLost if a rank does not."""
        mine = torch.tensor(list(text.encode()), dtype=torch.uint8)
        lengths = [int(length) for (length,) in self.agree([float(len(mine))])]
        if self.size == 1:
            return [text]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(mine)] = mine
        texts = [torch.empty_like(padded) for _ in lengths]
        try:
            dist.all_gather(texts, padded)
        except RuntimeError as error:
            raise self._lost(error) from error
        return [bytes(t[:n].tolist()).decode() for t, n in zip(texts, lengths, strict=True)]

    def holds_on_all_ranks(self, condition: bool) -> bool:
        """Whether a condition holds on every rank; see `agree`."""
        return all(value for (value,) in self.agree([float(condition)]))

    def announce_failure(self, reason: str) -> bool:
        """Announce that this rank failed in the present job; return whether it is the first to fail.

        Later failures are mostly consequences: a rank fails because its neighbour has failed.
        """
        return self._commands.announce_failure(reason)

    def failure_reason(self) -> str:
        """Return what was announced first in the present job."""
        return self._commands.failure_reason()

    def abort(self, job_number: int) -> None:
        """Break off all exchanges of tensors in a job, once; any thread may call this.

        NCCL's blocked kernels end. Gloo cannot abort: its ranks notice when `drop` closes sockets.
        """
        with self._lock:
            if job_number <= self._last_aborted:  # the process groups may be new ones already
                return
            self._last_aborted = job_number
            self.broken = True
            if self.peer_memory is not None:
                self.peer_memory.abort()
            # At once, because the abort of one communicator may wait for that of the other.
            threads = [threading.Thread(target=g.abort) for g in (self.data, self.frames) if g is not None]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def drop(self) -> None:
        """Close the connections for tensors after a failure, so that neighbours that wait there get an error.

        Messages that are on their way keep connections open: forget them first.
        """
        self.abort(self._commands.number)
        data, self.data = self.data, None
        frames, self.frames = self.frames, None
        for messages in (data, frames):
            if messages is not None:
                messages.close()

    def rebuild(self) -> None:
        """Make the connections for tensors anew. All ranks call this. Raises GroupLost if a rank does not."""
        if self.size == 1:
            self.broken = False
            return
        self.drop()
        try:
            if self.peer_memory is not None:
                self.peer_memory.reset()
            self._make_groups()
        except RuntimeError as error:
            raise self._lost(error) from error
        self.broken = False

    def close(self) -> None:
        """Leave the group. All ranks call this."""
        if self.watchdog is not None:
            self.watchdog.close()
            self.drop()
        if self.size > 1:
            dist.destroy_process_group()

    def lose_device(self, reason: str) -> GroupLost:
        """Return the exception for this rank, whose device does no more work; all ranks and their pages hear why."""
        if self.watchdog is not None:
            self.watchdog.leave_last_words(reason)
        return GroupLost(reason)

    def _lost(self, error: RuntimeError) -> GroupLost:
        """Return the exception that says why another rank has gone, or at least which one."""
        dead, last_words = [], ""
        try:
            if self.watchdog is not None:
                dead, last_words = self.watchdog.dead_ranks(reaped=False), self.watchdog.last_words()
        except RuntimeError:  # the store is gone, and torchrun with it
            log.debug("the store is gone", exc_info=True)
        log.debug("an agreement failed", exc_info=error)
        if last_words:
            return GroupLost(last_words)
        if dead:
            return GroupLost(f"rank {dead[0]} died")
        return GroupLost(f"rank {self.rank} lost the other ranks ({describe(error)})")

    def _connect(self, one_machine: bool) -> None:
        """Connect to the other ranks: the store, the watchdog, then all process groups and peer memory."""
        # Only what the other ranks must reach: on one machine the loopback interface, else the one towards rank 0.
        interface = interface_towards("127.0.0.1" if one_machine else os.environ["MASTER_ADDR"])
        if interface is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
        # Otherwise the communicator's own watchdog ends the process at the first error, of NCCL or CUDA; see `abort`.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        os.environ.setdefault("TORCH_NCCL_RETHROW_CUDA_ERRORS", "0")
        is_server = self.rank == 0 and not torchrun_has_store()
        self._commands = CommandStore(open_store(self.restarts, self.size, is_server))
        self._start_watchdog()
        dist.init_process_group(
            "gloo",
            store=PrefixStore("groups", open_store(self.restarts, self.size)),
            rank=self.rank,
            world_size=self.size,
            timeout=AGREE_TIMEOUT,
        )
        self.device_names = self.share(device_name(self.device))
        refuse_mixed_devices([value == 1 for (value,) in self.agree([float(self.device.type == "cuda")])])
        self._make_groups()
        self.peer_memory = connect_peer_memory(self.rank, self.size, self.device, self.holds_on_all_ranks)

    def _start_watchdog(self) -> None:
        """Start the watchdog, and read why the ranks were restarted."""
        store = open_store(self.restarts, self.size)
        self.watchdog = Watchdog(self.rank, self.size, store, self.abort, self.device.type)
        self.watchdog.start()
        if self.restarts:
            before = open_store(self.restarts - 1, self.size)
            if before.check([LAST_WORDS]):
                self.last_words = before.get(LAST_WORDS).decode()

    def _make_groups(self) -> None:
        """Make the process groups of `data` and `frames`."""
        assert self.watchdog is not None
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        groups = [dist.new_group(backend=backend, timeout=DATA_TIMEOUT) for _ in range(2)]
        # The first collective of an NCCL group must be one in which all ranks take part.
        for group in groups:
            dist.all_reduce(torch.zeros(1, device=self.device), group=group)
        self.data, self.frames = (Messages(group, self.watchdog) for group in groups)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
