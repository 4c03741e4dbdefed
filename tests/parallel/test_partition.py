"""How a picture is cut: fair shares, and slabs that make up the whole."""

from __future__ import annotations

import pytest
import torch

from wanvae_app.parallel.partition import COLUMNS, ROWS, Partition, plan_cut
from wanvae_app.parallel.shard import Shard


@pytest.mark.parametrize(
    ("height", "width", "num_ranks", "dim", "bounds"),
    [
        (60, 104, 8, COLUMNS, tuple(range(0, 105, 13))),  # 13 columns of 104 are less than 8 rows of 60
        (90, 160, 2, COLUMNS, (0, 80, 160)),  # both are fair, and a column is shorter than a row
        (160, 90, 2, ROWS, (0, 80, 160)),
        (7, 4, 3, ROWS, (0, 2, 4, 7)),  # rank 0, which serves the page, owns no more than the others
        (3, 2, 4, ROWS, (0, 1, 2, 3)),  # fewer rows than ranks
    ],
)
def test_cuts_are_fair(height: int, width: int, num_ranks: int, dim: int, bounds: tuple[int, ...]) -> None:
    assert plan_cut(height, width, num_ranks) == (dim, bounds)


def test_a_rank_without_rows_has_no_shard() -> None:
    assert Shard.plan(3, 2, 4, 2) is not None
    assert Shard.plan(3, 2, 4, 3) is None


@pytest.mark.parametrize(("dim", "shape"), [(ROWS, (1, 3, 2, 14, 5)), (COLUMNS, (1, 3, 2, 5, 14))])
def test_slabs_make_up_the_whole(dim: int, shape: tuple[int, ...]) -> None:
    """Of latents B C T H W, and of pixels T H W C, which are cut two dimensions earlier."""
    whole = torch.randn(shape)
    pixels = whole[0].permute(1, 2, 3, 0)
    for mine in range(3):
        partition = Partition(dim, (0, 2, 3, 7), mine)
        for x, along in ((whole, dim), (pixels, dim - 2)):
            parts = [partition.part(x, 2, along, rank) for rank in range(3)]
            assert torch.equal(torch.cat(parts, along), x)
            shapes = [partition.part_shape(tuple(x.shape), 2, along, rank) for rank in range(3)]
            assert shapes == [tuple(part.shape) for part in parts]
        assert torch.equal(partition.part(whole, 2), partition.part(whole, 2, dim, mine))
        assert partition.part_shape(shape, 2) == tuple(partition.part(whole, 2).shape)
        assert (partition.has_before, partition.has_after) == (mine > 0, mine < 2)
