"""DryRunShard: one rank's part of a picture without the other ranks, for who counts memory, bytes or time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from wanvae_app.kernels.mailbox import EarlyHalo, Neighbours
from wanvae_app.parallel.peer_memory import PeerMemory
from wanvae_app.parallel.shard import Shard


class Traffic(NamedTuple):
    """What one rank sends to the others."""

    num_bytes: int = 0  # rows and tokens, to all of them together
    token_bytes: int = 0  # of these, tokens
    num_exchanges: int = 0  # of rows with the neighbours, for which work waits

    def plus(self, other: Traffic) -> Traffic:
        """The sum of both."""
        return Traffic(*(a + b for a, b in zip(self, other, strict=True)))


class DryRunShard(Shard):
    """A shard whose neighbours' rows are zeros, and there at once.

    What would be sent is counted in `traffic`, without the padding of peer memory's messages. It behaves as if ranks
    reached each other's memory, so that steps are recorded as CUDA graphs.
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard.dim, shard.bounds, shard.rank, None)
        self.peer_memory = cast(PeerMemory, object())  # nothing is ever asked of it
        self.traffic = Traffic()

    @property
    def seconds_waited(self) -> float:
        return 0.0

    def note_wait(self) -> Callable[[], float]:
        return lambda: 0.0

    def early_halo(self) -> EarlyHalo | None:
        return None

    def fill_borders(self, frames: Tensor, slots: Tensor, early_halo: EarlyHalo | None = None) -> None:
        row = frames[0].select(self.dim - 3, 0)
        self._count_rows(len(slots) * row.nbytes, len(slots) * row.nbytes)

    def neighbours(self, frames: Tensor, count: int) -> Neighbours | None:
        row = frames[0, 1:-1, 1:-1].select(self.dim - 3, 0)
        # Exchanged by a kernel that computes pixels meanwhile: no work waits for it.
        self._count_rows(count * row.nbytes, count * row.nbytes, num_exchanges=0)
        return Neighbours(self.columns, 0, {})

    def swap(self, first: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        self._count_rows(first.nbytes, final.nbytes)
        return final.new_zeros(final.shape), first.new_zeros(first.shape)

    def all_gather_tokens(self, x: Tensor) -> Tensor:
        if self.num_ranks == 1:
            return x
        begin, end, last = (self.bounds[i] for i in (self.rank, self.rank + 1, -1))
        row = x.shape[1] // (end - begin)  # tokens of one latent row
        sent = x.nbytes * (self.num_ranks - 1)
        self._add(Traffic(sent, token_bytes=sent))
        before, behind = (x.new_zeros(x.shape[0], row * rows, x.shape[2]) for rows in (begin, last - end))
        return torch.cat([before, x, behind], 1)

    def _count_rows(self, before: int, behind: int, num_exchanges: int = 1) -> None:
        """Count bytes that go to the rank before and the one behind, where there are such."""
        if self.num_ranks > 1:
            sent = before * (self.rank > 0) + behind * (self.rank < self.num_ranks - 1)
            self._add(Traffic(sent, num_exchanges=num_exchanges))

    def _add(self, more: Traffic) -> None:
        self.sent += more.num_bytes
        self.traffic = self.traffic.plus(more)
