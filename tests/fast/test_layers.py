"""Layers on the fast path against the same layers in plain float64, chunk after chunk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.distance import distance
from torch import Tensor

from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import ResidualBlock, Upsample
from wanvae_app.model.vae import Head

pytest.importorskip("triton")  # none for this platform
from support.fast_path import DEVICE, DTYPE, NOT_HERE, TOLERANCE, TOO_OLD, fast_state, random

from wanvae_app.fast import layers

pytestmark = pytest.mark.skipif(TOO_OLD, reason=NOT_HERE)


@pytest.mark.parametrize("rows", [1, 2, 99])
@torch.no_grad()
def test_head_in_strips(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norm, SiLU and a convolution to three channels, so many rows at a time, chunk after chunk."""
    monkeypatch.setattr(layers, "PRODUCT_BYTES", rows * 81 * 9 * DTYPE.itemsize)
    torch.manual_seed(rows)
    layer, x = Head(16, 3), torch.randn(1, 16, 5, 5, 7)
    fast = fast_state()
    expected = layer.double()(x.double(), ClipState())
    layer.to(DEVICE, DTYPE)
    found = [layers.head(layer, part.to(DEVICE, DTYPE), fast).cpu() for part in x.split([1, 2, 2], 2)]
    assert distance(torch.cat(found, 2), expected) < 2 * TOLERANCE


@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("temporal", [True, False])
@torch.no_grad()
def test_upsampling(temporal: bool, channels: int) -> None:
    layer = Upsample(16, 24, temporal)
    x, skip = torch.randn(1, 16, 5, 3, 4), torch.randn(1, 24 * channels, 5, 3, 4)

    def parts(dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
        for some, around in zip(x.split([1, 2, 2], 2), skip.split([1, 2, 2], 2), strict=True):
            yield some.to(device, dtype), around.to(device, dtype) if channels else None

    plain, fast = ClipState(), fast_state()
    layer.double()
    expected = []
    for part, around in parts(torch.float64, torch.device("cpu")):
        expected.append(layer(part, plain, around))
        plain.first = False
    layer.to(DEVICE, DTYPE)
    for (part, around), whole in zip(parts(DTYPE, DEVICE), expected, strict=True):
        (found,) = layers.upsample(layer, part, fast, skip=around)
        assert distance(found.cpu(), whole) < 2 * TOLERANCE
        fast.first = False


@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("temporal", [True, False])
@torch.no_grad()
def test_upsampling_in_parts(temporal: bool, channels: int) -> None:
    layer = Upsample(16, 24, temporal).to(DEVICE, DTYPE)
    whole, parts = fast_state(), fast_state()
    for x in torch.randn(1, 16, 10, 3, 4).to(DEVICE, DTYPE).split([1, 3, 2, 4], 2):
        skip = random(1, *x.shape[2:], 24 * channels).movedim(-1, 1) if channels else None
        (expected,) = layers.upsample(layer, x, whole, skip=skip)
        pieces = list(layers.upsample(layer, x, parts, 2, skip))
        assert distance(torch.cat(pieces, 2), expected) < TOLERANCE
        assert not temporal or max(piece.shape[2] for piece in pieces) <= 2
        whole.first = parts.first = False
    assert all(
        pool._num_passing <= 6 and len(pool.data) == 1 + 2 * temporal + pool._num_passing
        for pool in parts.pools
    )


@pytest.mark.parametrize("width", [16, 24])
@torch.no_grad()
def test_a_block_writes_over_what_it_may(width: int) -> None:
    blocks = [ResidualBlock(16, width), ResidualBlock(width, width)]
    for block in blocks:
        block.to(DEVICE, DTYPE)
    kept, overwritten = fast_state(), fast_state()
    for x in torch.randn(1, 5, 3, 4, 16).to(DEVICE, DTYPE).movedim(-1, 1).split([1, 2, 2], 2):
        before = x.clone()
        expected = layers.residual_blocks(blocks, x, kept)
        assert torch.equal(x, before), "somebody may need it"
        found = layers.residual_blocks(blocks, x, overwritten, can_overwrite=True)
        assert torch.equal(found, expected)
        assert (found.data_ptr() == x.data_ptr()) == (width == 16), "a shortcut makes a place of its own"
