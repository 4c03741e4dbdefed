"""The memory layout survives a concatenation, also where strides are ambiguous."""

from __future__ import annotations

import pytest
import torch

from wanvae_app.channels_last import cat_channels_last


@pytest.mark.parametrize("dim", [2, 3, 4])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 3), (1, 1, 5)])
def test_a_concatenation_lies_channels_last(dim: int, sizes: tuple[int, ...]) -> None:
    shape = list(sizes)
    shape[dim - 2] += 2
    whole = torch.randn(2, *shape, 4).movedim(-1, 1)  # B C T H W
    parts = whole.split([1, shape[dim - 2] - 1], dim)
    nothing = whole.narrow(dim, 0, 0)
    found = cat_channels_last([parts[0], nothing, parts[1]], dim)
    assert torch.equal(found, whole)
    assert found.movedim(1, -1).is_contiguous()


def test_a_single_part_is_not_copied() -> None:
    whole = torch.randn(1, 2, 3, 4, 5)
    assert cat_channels_last([whole, whole[:, :, :0]], 2) is whole
