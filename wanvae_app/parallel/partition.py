"""Partition: how a picture is cut into slabs, one for each rank, and which slab this rank owns.

A picture is cut along its latent rows or along its latent columns; from here on, "rows" means either. At every scale a
rank owns its latent rows times a power of two, so every rank knows every size without asking. The picture is never
padded to divide evenly, because padding would change the frames at its edge.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

ROWS, COLUMNS = 3, 4  # dimensions of B C T H W


class Cut(NamedTuple):
    """Where a picture is cut."""

    dim: int  # ROWS or COLUMNS
    bounds: tuple[int, ...]  # rank r owns the latent rows bounds[r] to bounds[r + 1]


def plan_cut(height: int, width: int, num_ranks: int) -> Cut:
    """Cut a latent picture of height x width for `num_ranks` ranks, along the dimension where shares are fairer.

    A dimension with fewer rows than ranks is cut into single rows, and the last ranks own nothing. Rank 0 never owns
    more than another rank, because it also serves the page.
    """

    def largest_share(length: int) -> float:
        num_parts = min(num_ranks, length)
        return -(-length // num_parts) / length

    # Where shares are equal, the boundary is the shorter one: fewer bytes travel.
    along_rows = (largest_share(height), width) <= (largest_share(width), height)
    dim, length = (ROWS, height) if along_rows else (COLUMNS, width)
    num_parts = min(num_ranks, length)
    return Cut(dim, tuple(length * rank // num_parts for rank in range(num_parts + 1)))


class Partition:
    """The slabs that a picture is cut into, seen from `rank`, which owns one of them.

    Rank r owns the latent rows `bounds[r]` to `bounds[r + 1]` along `dim`, ROWS or COLUMNS of B C T H W.
    """

    def __init__(self, dim: int, bounds: tuple[int, ...], rank: int) -> None:
        ascending = all(a < b for a, b in zip(bounds, bounds[1:], strict=False))
        assert ascending and 0 <= rank < len(bounds) - 1, (bounds, rank)
        self.dim = dim
        self.bounds = bounds
        self.rank = rank

    @property
    def num_ranks(self) -> int:
        """Number of ranks that own a slab."""
        return len(self.bounds) - 1

    @property
    def columns(self) -> bool:
        """Whether slabs are columns of the picture, not rows."""
        return self.dim == COLUMNS

    @property
    def has_before(self) -> bool:
        """Whether a slab lies before this one: above it, or at its left."""
        return self.rank > 0

    @property
    def has_after(self) -> bool:
        """Whether a slab lies after this one: below it, or at its right."""
        return self.rank < self.num_ranks - 1

    def num_rows(self, rank: int) -> int:
        """Number of latent rows that `rank` owns."""
        return self.bounds[rank + 1] - self.bounds[rank]

    def part(self, x: Tensor, scale: int = 1, dim: int | None = None, rank: int | None = None) -> Tensor:
        """Return the slab of `rank`, or of this one, in a whole tensor with `scale` rows per latent row (a view).

        `dim` is the dimension of x that is cut, if x is not B C T H W.
        """
        dim, rank = self._defaults(dim, rank)
        return x.narrow(dim, self.bounds[rank] * scale, self.num_rows(rank) * scale)

    def part_shape(
        self, shape: tuple[int, ...], scale: int = 1, dim: int | None = None, rank: int | None = None
    ) -> tuple[int, ...]:
        """Return the shape of `part` for a whole tensor of `shape`."""
        dim, rank = self._defaults(dim, rank)
        return (*shape[:dim], self.num_rows(rank) * scale, *shape[dim + 1 :])

    def _defaults(self, dim: int | None, rank: int | None) -> tuple[int, int]:
        return self.dim if dim is None else dim, self.rank if rank is None else rank
