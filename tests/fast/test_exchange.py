"""What is written into padded frames where rows travel as messages, against the same in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from support.plain import silu_norm, transformed
from torch import Tensor

from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.parallel.partition import COLUMNS, ROWS
from wanvae_app.parallel.shard import WHOLE, Shard

pytest.importorskip("triton")  # none for this platform
from support.fast_path import DEVICE, DTYPE, TOLERANCE, UNSUPPORTED, random

from wanvae_app.fast.exchange import activate_transformed

pytestmark = pytest.mark.skipif(bool(UNSUPPORTED), reason=UNSUPPORTED)


class Peers(Shard):
    """One rank among three, whose neighbours send `theirs` and keep what they are sent."""

    def __init__(self, dim: int, rank: int, theirs: tuple[Tensor, Tensor]) -> None:
        super().__init__(dim, (0, 1, 2, 3), rank, None)
        self.theirs, self.mine = theirs, list[Tensor]()

    def exchange_rows(self, first: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        self.mine = [first.clone(), final.clone()]
        return self.theirs


@pytest.mark.parametrize("rank", [None, 0, 1, 2])
@pytest.mark.parametrize("cut", [ROWS, COLUMNS])
@pytest.mark.parametrize(
    ("c", "shape"),
    [(8, (4, 3, 5)), (96, (8, 1, 4)), (160, (4, 5, 1)), (1024, (12, 3, 5)), (8, (8, 2, 2)), (8, (4, 70, 66))],
)
def test_activation_transformed_for_winograd(
    c: int, shape: tuple[int, int, int], cut: int, rank: int | None
) -> None:
    num_frames, height, width = shape
    x, gamma, past = random(*shape, c), random(c), random(2, height + 2, width + 2, c)
    outside = F.pad(torch.zeros(height, width, 1, device=DEVICE), (0, 0, 1, 1, 1, 1), value=1.0).bool()
    lines = outside.movedim(cut - 3, 0)  # there only a neighbour's rows make the border anything but zeros
    lines[0, 1:-1], lines[-1, 1:-1] = rank not in (1, 2), rank not in (0, 1)
    past.masked_fill_(outside, 0)
    count = num_frames // 4 * 6
    frames = PaddedFramePool(height, width, c, DTYPE, DEVICE)
    slots = frames.take(6 + count)[2:][::-1]
    frames.data[1:, 1:-1, 1:-1] = float("nan")
    frames.data[list(slots[:2])] = past
    expected = F.pad(silu_norm(x, gamma).to(DTYPE).double(), (0, 0, 1, 1, 1, 1))
    length = width if cut == ROWS else height
    theirs = random(2, length, num_frames, c)
    shard = WHOLE if rank is None else Peers(cut, rank, (theirs[0], theirs[1]))
    activate_transformed(x, gamma, frames, slots, shard)
    edges = expected.movedim(cut - 2, 0)  # as past frames, rounded
    if isinstance(shard, Peers):
        sides = [(0, 1, 0)] * (rank != 0) + [(1, -2, -1)] * (rank != 2)
        for side, own, border in sides:
            assert distance(shard.mine[side].movedim(1, 0), edges[own, :, 1:-1]) < TOLERANCE
            edges[border, :, 1:-1] = theirs[side].movedim(1, 0).double()
    found = frames.data[list(slots)].double()
    assert torch.equal(found[:2], past.double())
    assert frames.data[1:3, 1:-1, 1:-1].isnan().all()  # nobody wrote elsewhere
    assert distance(found[-2:], expected[-2:]) < TOLERANCE
    assert distance(found[2:-2], transformed(torch.cat([past.double(), expected]))) < TOLERANCE
