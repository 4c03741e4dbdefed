"""Messages: tensors sent from rank to rank over a process group."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from wanvae_app.parallel.watchdog import Watchdog

Message = tuple[Tensor, int]  # a contiguous tensor, and the rank that it goes to or comes from


class Messages:
    """Sends and receives tensors over a process group.

    A process group closes its connections when the last reference to it goes. Only this object holds one, so `close`
    wakes every rank that waits for this one.
    """

    def __init__(self, group: dist.ProcessGroup, watchdog: Watchdog) -> None:
        self._group: dist.ProcessGroup | None = group
        self._watchdog = watchdog

    def start(self, sends: Sequence[Message], receives: Sequence[Message]) -> list[dist.Work]:
        """Start messages, all at once. Raises RuntimeError after `close`."""
        if self._group is None:
            raise RuntimeError("the connection to the other ranks is closed")
        ops = [dist.P2POp(dist.isend, x, group=self._group, group_peer=peer) for x, peer in sends]
        ops += [dist.P2POp(dist.irecv, x, group=self._group, group_peer=peer) for x, peer in receives]
        return dist.batch_isend_irecv(ops) if ops else []

    def wait(self, works: Sequence[dist.Work]) -> None:
        """Wait until these messages have arrived. Over NCCL only the device waits."""
        with self._watchdog.waiting():
            for work in works:
                work.wait()

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Send and receive, and wait until all messages have arrived."""
        self.wait(self.start(sends, receives))

    def abort(self) -> None:
        """Break off messages that are on their way, from any thread.

        Gloo cannot do that: its other ranks notice when `close` closes the sockets.
        """
        group = self._group
        if group is not None:
            group.abort()

    def close(self) -> None:
        """Leave the process group."""
        group, self._group = self._group, None
        if group is not None:
            dist.destroy_process_group(group)
