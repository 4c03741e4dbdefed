"""The convolutions of `mma_conv.cu` against float64: packing and blocks everywhere, the kernel on a GPU.

On a GPU it is compiled as for the card itself, and as for Ampere and Ada cards.

python -m pytest tests/kernels/test_mma_conv.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.distance import distance
from support.padded import frames_of, frames_to_write, only_wrote
from support.plain import plain_conv, plain_upsample_conv, transformed
from torch import Tensor

from wanvae_app.kernels import mma_conv, winograd
from wanvae_app.kernels.capability import SHARED_KIB, capability_of, compiled_as, shared_bytes
from wanvae_app.kernels.mma_kernel import Block, choose_block
from wanvae_app.kernels.packed_weights import fold_upsampling
from wanvae_app.kernels.shortcut import Shortcut
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import add_duplicate_up

RUNS = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
DEVICE = torch.device("cuda" if RUNS else "cpu")
needs_ampere = pytest.mark.skipif(not RUNS, reason="the kernel needs an Ampere GPU or a later one")
WIDTHS = [(8, 16), (16, 24), (24, 48), (40, 96), (96, 96), (96, 192), (192, 384), (160, 160), (256, 256)]
SHAPES = [(1, 1), (1, 40), (9, 1), (8, 16), (17, 33), (45, 70)]
TOLERANCE = {torch.bfloat16: 2.5e-3, torch.float16: 6e-4}


@pytest.fixture(params=[80, 89, None], ids=["as 8.0", "as 8.9", "as it is"])
def card(request: pytest.FixtureRequest) -> Iterator[int]:
    """The capability that the kernel is made for."""
    own = capability_of(DEVICE)
    if request.param is None:
        yield own
        return
    if request.param > own:
        pytest.skip("the card is older")
    with compiled_as(request.param):
        yield request.param


def unpacked(packed: Tensor, block: Block, n: int, c: int) -> Tensor:
    """Read packed weights as `mma_conv.cu` reads shared memory: [phases, kh, kw, products, n, c]."""
    phases, blocks, rounds, steps, kw, kh, planes, width, chunks, _ = packed.shape
    rows = packed.flatten(8)
    found = torch.empty(phases, kh, kw, rounds * planes, blocks * width, steps * block.depth)
    for row in range(width):
        swizzle = row >> 2 & 1 if block.depth == 16 else row >> 1 & 3
        for channel in range(block.depth):
            at = (channel // 8 ^ swizzle) * 8 + channel % 8
            values = rows[:, :, :, :, :, :, :, row, at].permute(0, 5, 4, 2, 6, 1, 3)
            found[..., row::width, channel :: block.depth] = values.flatten(3, 4)
    assert chunks * 8 == block.depth
    outside = found.clone()
    outside[..., :n, :c] = 0
    assert not outside.any(), "zeros fill the last block and the last step"
    return found[..., :n, :c]


@pytest.mark.parametrize(("c", "n"), [(3, 20), (12, 96), (40, 48), (96, 100)])
@pytest.mark.parametrize("capability", [80, 89])
def test_packed_weights_hold_every_product_once(c: int, n: int, capability: int) -> None:
    weight = torch.randn(n, c, 3, 3, 3)
    block = choose_block(c, n, 1, 3, capability)
    found = unpacked(mma_conv.pack(weight, block, torch.float32), block, n, c)
    assert torch.equal(found[0], weight.permute(3, 4, 2, 0, 1))
    for frames in (2, 4):
        block = choose_block(c, n, frames, 3, capability)
        found = unpacked(mma_conv.pack(weight, block, torch.float16).float(), block, n, c)[0]
        expected = winograd.pack(weight, frames).float().unflatten(0, (3, 3))
        assert torch.equal(found, expected)
    block = choose_block(c, n, 1, 2, capability)
    found = unpacked(mma_conv.pack(weight[:, :, 0], block, torch.float32), block, n, c)
    expected = fold_upsampling(weight[:, :, 0]).view(4, n, 2, 2, c).permute(0, 2, 3, 1, 4)
    assert torch.equal(found[:, :, :, 0], expected)


@pytest.mark.parametrize("capability", [*SHARED_KIB, 110])
def test_blocks_fit_every_card(capability: int) -> None:
    for c in (8, 16, 24, 96, 160, 384, 1024):
        for n in (8, 12, 24, 96, 160, 192, 256, 384, 1024):
            for frames, taps in ((1, 1), (1, 2), (1, 3), (2, 3), (4, 3)):
                block = choose_block(c, n, frames, taps, capability)
                # A multiprocessor keeps 1 KiB for itself for each block.
                assert block.blocks * (block.shared_bytes + 1024) <= shared_bytes(capability), block
                assert block.width % (8 * (block.threads // 128)) == 0, "a warp computes eights of channels"
                assert block.blocks * block.threads * 128 <= 65536, "registers for 128 of a thread at least"
                assert -(-n // block.width) * block.width < 1.5 * n + 32, "not much is computed in vain"


def test_a_tile_takes_as_many_frames_as_divide_the_chunk() -> None:
    chosen = {n: mma_conv.choose_frames_per_tile(n) for n in (1, 2, 3, 4, 6, 8)}
    assert chosen == {1: 0, 2: 2, 3: 0, 4: 4, 6: 2, 8: 4}


@needs_ampere
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("c", "n"), WIDTHS)
@pytest.mark.parametrize("frames_per_tile", [1, 2, 4])
def test_convolution(card: int, dtype: torch.dtype, c: int, n: int, frames_per_tile: int) -> None:
    for shape in SHAPES:
        torch.manual_seed(c + n)
        num_frames = {1: 3, 2: 4, 4: 8}[frames_per_tile]
        multiplied = dtype if frames_per_tile == 1 else torch.float16
        x = torch.randn(num_frames + 2, *shape, c, device=DEVICE).to(multiplied)
        weight = (torch.randn(n, c, 3, 3, 3, device=DEVICE) / (27 * c) ** 0.5).to(dtype)
        bias = torch.randn(n, device=DEVICE).to(dtype)
        block = mma_conv.block_for(DEVICE, c, n, frames_per_tile, 3)
        assert block.frames == frames_per_tile
        weights = mma_conv.pack(weight, block, multiplied)
        frames, slots = frames_of(x if frames_per_tile < 4 else transformed(x))
        expected, tolerance = plain_conv(x, weight, bias), TOLERANCE[dtype]
        tolerance *= 1.7 if frames_per_tile == 4 else 1
        found = mma_conv.mma_conv(weights, bias, block, 3, frames, slots)
        assert found.dtype == dtype and distance(found, expected) < tolerance
        residual = torch.randn(num_frames, *shape, n, device=DEVICE).to(dtype)
        found = mma_conv.mma_conv(weights, bias, block, 3, frames, slots, residual)
        assert distance(found, expected + residual.double()) < tolerance
        mma_conv.mma_conv(weights, bias, block, 3, frames, slots, residual, in_place=True)
        assert torch.equal(residual, found)
        into, targets = frames_to_write(found, n, dtype)
        mma_conv.mma_conv(weights, bias, block, 3, frames, slots, into=(into, targets))
        assert distance(into.data[list(targets)][:, 1:-1, 1:-1], expected) < tolerance
        assert only_wrote(into, targets)


@needs_ampere
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("c", "n"), [(8, 16), (24, 48), (96, 96), (384, 384)])
def test_other_taps(card: int, dtype: torch.dtype, c: int, n: int) -> None:
    """The clip's first frame, which meets one tap in time; and a convolution in time alone."""
    for shape in SHAPES:
        torch.manual_seed(c)
        x = torch.randn(4, *shape, c, device=DEVICE).to(dtype)
        weight = (torch.randn(n, c, 3, 3, 3, device=DEVICE) / (9 * c) ** 0.5).to(dtype)
        bias = torch.randn(n, device=DEVICE).to(dtype)
        frames, slots = frames_of(x)
        block = mma_conv.block_for(DEVICE, c, n, 0, 3)
        weights = mma_conv.pack(weight[:, :, 2:], block, dtype)
        found = mma_conv.mma_conv(weights, bias, block, 1, frames, slots)
        assert distance(found, plain_conv(x, weight[:, :, 2:], bias)) < TOLERANCE[dtype]
        block = mma_conv.block_for(DEVICE, c, n, 0, 1)
        in_time = weight[:, :, :, 1:2, 1:2]
        found = mma_conv.mma_conv(mma_conv.pack(in_time, block, dtype), bias, block, 3, frames, slots)
        expected = sum(x[t : t + 2].double() @ in_time[:, :, t, 0, 0].double().T for t in range(3))
        assert distance(found, bias.double() + expected) < TOLERANCE[dtype]


@needs_ampere
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("c", "n"), [(24, 16), (192, 96), (160, 160), (512, 256)])
def test_upsampling(card: int, dtype: torch.dtype, c: int, n: int) -> None:
    for shape in SHAPES:
        torch.manual_seed(c)
        x = torch.randn(3, *shape, c, device=DEVICE).to(dtype)
        weight = (torch.randn(n, c, 3, 3, device=DEVICE) / (9 * c) ** 0.5).to(dtype)
        bias = torch.randn(n, device=DEVICE).to(dtype)
        frames, slots = frames_of(x)
        block = mma_conv.block_for(DEVICE, c, n, 0, 2)
        weights, expected = mma_conv.pack(weight, block, dtype), plain_upsample_conv(x, weight, bias)
        # Taps that are added up are rounded once more.
        tolerance = 1.5 * TOLERANCE[dtype]
        assert distance(mma_conv.mma_conv(weights, bias, block, 1, frames, slots), expected) < tolerance
        for time_factor, per_output in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (1, 8)):
            shape_of_skip = -(-(len(x) + 1) // time_factor), *shape, per_output * n
            skip = torch.randn(shape_of_skip, device=DEVICE).to(dtype)
            state = ClipState()
            state.first = False
            every = torch.zeros(1, n, time_factor * len(skip), 2 * shape[0], 2 * shape[1], device=DEVICE)
            add_duplicate_up(every, skip.float().movedim(-1, 0)[None], time_factor, 2, state)
            added = every[0].movedim(0, -1)
            for first_frame in (0, 1):
                if first_frame + len(x) > len(added):
                    continue
                shortcut = Shortcut(skip, time_factor, first_frame)
                found = mma_conv.mma_conv(weights, bias, block, 1, frames, slots, shortcut=shortcut)
                both = expected + added[first_frame : first_frame + len(x)]
                assert distance(found, both) < tolerance


@needs_ampere
def test_the_same_again(card: int) -> None:
    """No race shows: many launches, the same bits."""
    for frames_per_tile in (1, 2, 4):
        x = torch.randn(6, 90, 80, 96, device=DEVICE).half()
        weight, bias = torch.randn(96, 96, 3, 3, 3, device=DEVICE) / 50, torch.randn(96, device=DEVICE).half()
        block = mma_conv.block_for(DEVICE, 96, 96, frames_per_tile, 3)
        weights = mma_conv.pack(weight, block, torch.float16)
        frames, slots = frames_of(x if frames_per_tile < 4 else transformed(x))
        first = mma_conv.mma_conv(weights, bias, block, 3, frames, slots)
        for _ in range(50):
            assert torch.equal(mma_conv.mma_conv(weights, bias, block, 3, frames, slots), first)
