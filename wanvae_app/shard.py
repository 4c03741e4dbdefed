"""Which part of the picture this rank owns, and what it asks of the others: halo rows, everyone's tokens.

The picture is cut along latent rows or latent columns ("rows" below means either). At every scale a rank's
rows are its latent rows times a power of two, so every rank knows every size without asking, and the picture
is never padded to divide evenly: padding would change its border.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from torch import Tensor

ROWS, COLUMNS = 3, 4  # dimensions of B C T H W


class Shard:
    """One rank's part of a picture that `num_ranks` ranks hold together.

    `cuts` holds num_ranks + 1 latent positions along `dim`; rank r owns cuts[r] to cuts[r + 1].
    `waited` counts the seconds that this rank stood in exchanges (host time).
    """

    def __init__(self, dim: int, cuts: tuple[int, ...], rank: int, group: dist.ProcessGroup | None) -> None:
        assert 0 <= rank < len(cuts) - 1 and all(a < b for a, b in zip(cuts, cuts[1:], strict=False)), cuts
        self.dim = dim
        self.cuts = cuts
        self.rank = rank
        self.group = group
        self.waited = 0.0

    @classmethod
    def plan(
        cls, height: int, width: int, size: int, rank: int, group: dist.ProcessGroup | None = None
    ) -> Shard | None:
        """Cut a latent picture of height x width for `size` ranks: the fairer way, rows if both are equal.

        Returns None for a rank that gets nothing, because the picture has fewer rows than there are ranks.
        Rank 0 never gets more than its share: it also serves the page.
        """

        def largest_share(length: int) -> float:
            parts = min(size, length)
            return -(-length // parts) / length

        dim, length = (ROWS, height) if largest_share(height) <= largest_share(width) else (COLUMNS, width)
        parts = min(size, length)
        if rank >= parts:
            return None
        return cls(dim, tuple(length * r // parts for r in range(parts + 1)), rank, group)

    @property
    def num_ranks(self) -> int:
        return len(self.cuts) - 1

    def part_of(self, rank: int, x: Tensor, scale: int = 1) -> Tensor:
        """The slab of `rank` in a whole tensor with `scale` rows per latent row (a view)."""
        begin, end = self.cuts[rank] * scale, self.cuts[rank + 1] * scale
        return x.narrow(self.dim, begin, end - begin)

    def part(self, x: Tensor, scale: int = 1) -> Tensor:
        """This rank's slab of a whole tensor with `scale` rows per latent row (a view)."""
        return self.part_of(self.rank, x, scale)

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """The zero padding that a convolution still needs after `halo`: none along the cut."""
        if self.num_ranks == 1:
            return height, width
        return (0, width) if self.dim == ROWS else (height, 0)

    def halo(self, x: Tensor, before: int, after: int) -> Tensor:
        """x [B C T H W] with `before` and `after` rows of the neighbours around it along the cut.

        The picture's edge counts as zeros, as a convolution's padding does. A single rank has no cut: x
        comes back as it is.
        """
        if self.num_ranks == 1:
            return x
        length, last = x.shape[self.dim], self.num_ranks - 1

        def rows(count: int) -> Tensor:
            # Zeros are right at the picture's edge; elsewhere the neighbour's rows land here. Channels last.
            shape = list(x.shape)
            shape[self.dim] = count
            return x.new_zeros(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

        # What the previous rank lacks behind its rows is our first `after` rows, and the other way round.
        top, bottom = rows(before), rows(after)
        sends, receives = [], []
        if self.rank > 0:
            if after:
                sends.append((x.narrow(self.dim, 0, after), self.rank - 1))
            if before:
                receives.append((top, self.rank - 1))
        if self.rank < last:
            if before:
                sends.append((x.narrow(self.dim, length - before, before), self.rank + 1))
            if after:
                receives.append((bottom, self.rank + 1))
        self._exchange(
            [(t.movedim(1, -1), peer) for t, peer in sends],
            [(t.movedim(1, -1), peer) for t, peer in receives],
        )
        return torch.cat([part for part in (top, x, bottom) if part.shape[self.dim]], self.dim)

    def everyone(self, x: Tensor) -> Tensor:
        """x [N, tokens, C] of all ranks, joined along the tokens. C and N agree; tokens follow the cuts."""
        if self.num_ranks == 1:
            return x
        mine = self.cuts[self.rank + 1] - self.cuts[self.rank]
        parts = []
        for rank in range(self.num_ranks):
            rows = self.cuts[rank + 1] - self.cuts[rank]
            parts.append(
                x if rank == self.rank else x.new_empty(x.shape[0], x.shape[1] // mine * rows, x.shape[2])
            )
        others = [rank for rank in range(self.num_ranks) if rank != self.rank]
        self._exchange([(x, rank) for rank in others], [(parts[rank], rank) for rank in others])
        return torch.cat(parts, 1)

    def _exchange(self, sends: list[tuple[Tensor, int]], receives: list[tuple[Tensor, int]]) -> None:
        """Point-to-point messages, all at once, into contiguous tensors; peers are ranks of the group."""
        ops = [dist.P2POp(dist.isend, x.contiguous(), group=self.group, group_peer=peer) for x, peer in sends]
        ops += [dist.P2POp(dist.irecv, x, group=self.group, group_peer=peer) for x, peer in receives]
        if not ops:
            return
        start = time.perf_counter()
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        self.waited += time.perf_counter() - start


WHOLE = Shard(ROWS, (0, 1), 0, None)  # one rank that has the whole picture, of any size
