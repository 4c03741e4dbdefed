"""DryRunShard: one rank's slab without the other ranks, to count memory, bytes or time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from wanvae_app.kernels.mailbox import EarlyHalo, Neighbours
from wanvae_app.parallel.shard import Shard

if TYPE_CHECKING:  # it needs Triton
    from wanvae_app.parallel.peer_memory import PeerMemory


class Traffic(NamedTuple):
    """What one rank sends to the others."""

    num_bytes: int = 0  # rows and tokens, to all of them together
    token_bytes: int = 0  # of these, tokens
    num_exchanges: int = 0  # of rows with the neighbours, for which work waits

    def plus(self, other: Traffic) -> Traffic:
        """Return the sum of both."""
        return Traffic(*(a + b for a, b in zip(self, other, strict=True)))


class DryRunShard(Shard):
    """A shard that exchanges nothing: the other ranks' rows and tokens are zeros.

    It counts in `traffic` what a real shard would send, without the padding of messages in peer memory. It behaves as
    if ranks reached each other's memory, so steps are recorded as CUDA graphs.
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard.dim, shard.bounds, shard.rank, None)
        self.peer_memory = cast("PeerMemory", object())  # only compared with None
        self.traffic = Traffic()

    @property
    def seconds_waited(self) -> float:
        return 0.0

    def request_seconds_waited(self) -> Callable[[], float]:
        return lambda: 0.0

    def early_halo(self) -> EarlyHalo | None:
        return None

    def fill_halo(self, frames: Tensor, slots: Tensor, early_halo: EarlyHalo | None = None) -> None:
        row = frames[0].select(self.dim - 3, 0)
        self._count_rows(len(slots) * row.nbytes, len(slots) * row.nbytes)

    def reserve_exchange(self, frames: Tensor, num_frames: int) -> Neighbours | None:
        row = frames[0, 1:-1, 1:-1].select(self.dim - 3, 0)
        # No work waits for this exchange: the kernel that makes it computes pixels meanwhile.
        self._count_rows(num_frames * row.nbytes, num_frames * row.nbytes, num_exchanges=0)
        return Neighbours(self.columns, 0, {})

    def exchange_rows(self, first: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        self._count_rows(first.nbytes, final.nbytes)
        return final.new_zeros(final.shape), first.new_zeros(first.shape)

    def all_gather_tokens(self, x: Tensor) -> Tensor:
        if self.num_ranks == 1:
            return x
        num_frames, num_tokens, channels = x.shape
        per_row = num_tokens // self.num_rows(self.rank)
        sent = x.nbytes * (self.num_ranks - 1)
        self._add(Traffic(sent, token_bytes=sent))
        rows_before, rows_after = self.bounds[self.rank], self.bounds[-1] - self.bounds[self.rank + 1]
        before, after = (x.new_zeros(num_frames, per_row * n, channels) for n in (rows_before, rows_after))
        return torch.cat([before, x, after], 1)

    def _count_rows(self, to_before: int, to_after: int, num_exchanges: int = 1) -> None:
        """Count bytes for the rank before and for the rank after, where there are such."""
        if self.num_ranks > 1:
            sent = to_before * self.has_before + to_after * self.has_after
            self._add(Traffic(sent, num_exchanges=num_exchanges))

    def _add(self, traffic: Traffic) -> None:
        self.sent_bytes += traffic.num_bytes
        self.traffic = self.traffic.plus(traffic)
