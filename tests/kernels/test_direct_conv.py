"""The direct convolution against float64: on a GPU as it is, elsewhere in Triton's interpreter.

python -m pytest tests/kernels/test_direct_conv.py
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from support.padded import frames_of, frames_to_write, only_wrote
from support.plain import plain_conv, plain_upsample_conv, silu_norm

from wanvae_app.kernels import tiles
from wanvae_app.kernels.packed_weights import fold_upsampling, matrix_of
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.kernels.shortcut import Shortcut
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import add_duplicate_up

pytest.importorskip("triton")  # none for this platform
from support.fast_path import DEVICE, DTYPE, GPU, NO_DESCRIPTORS, TOLERANCE, random

from wanvae_app.kernels.direct_conv import direct_conv

pytestmark = pytest.mark.skipif(bool(NO_DESCRIPTORS), reason=NO_DESCRIPTORS)
WIDE = [(96, 96), (192, 192), (192, 384), (384, 384), (160, 320), (256, 256), (640, 640), (1024, 1024)]


@pytest.mark.parametrize(
    ("c", "n"), [(16, 24), (24, 48), (8, 96), (48, 12), (64, 32), *(WIDE if GPU else [])]
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (2, 3, 7), (3, 17, 19), (4, 5, 1)])
def test_convolution(c: int, n: int, shape: tuple[int, int, int]) -> None:
    num_frames, height, width = shape
    torch.manual_seed(num_frames + c)
    x = random(num_frames + 2, height, width, c)
    weight, bias, gamma = random(n, c, 3, 3, 3) / (27 * c) ** 0.5, random(n), random(n)
    residual = random(num_frames, height, width, n)
    frames, slots = frames_of(x)
    matrix = matrix_of(weight)
    expected = plain_conv(x, weight, bias)
    taps = (3, 3, 3)
    assert distance(direct_conv(matrix, bias, taps, frames, slots), expected) < TOLERANCE
    found = direct_conv(matrix.chunk(3, 1)[2], bias, (1, 3, 3), frames, slots[2:])
    assert distance(found, plain_conv(x[2:], weight[:, :, 2:], bias)) < TOLERANCE
    found = direct_conv(matrix, bias, taps, frames, slots, residual=residual)
    assert distance(found, expected + residual.double()) < TOLERANCE
    direct_conv(matrix, bias, taps, frames, slots, residual=residual, in_place=True)
    assert torch.equal(residual, found)
    if tiles.fits_one_tile(n) and n % 8 == 0:
        into, targets = frames_to_write(residual, n, DTYPE)
        direct_conv(matrix, bias, taps, frames, slots, gamma=gamma, into=(into, targets))
        padded = F.pad(silu_norm(expected, gamma), (0, 0, 1, 1, 1, 1))
        assert distance(into.data[list(targets)], padded) < TOLERANCE
        assert only_wrote(into, targets)


@pytest.mark.parametrize("frames_per_tile", [1, 2, 4])
@pytest.mark.parametrize("num_frames", [1, 2, 4, 6])
def test_tiles_of_several_frames(frames_per_tile: int, num_frames: int) -> None:
    x, weight, bias = random(num_frames + 2, 5, 6, 16), random(48, 16, 3, 3, 3) / 20, random(48)
    frames, slots = frames_of(x)
    tile = tiles.Tile(frames_per_tile, 64, 32, 16, 16, 4, 2)
    found = direct_conv(matrix_of(weight), bias, (3, 3, 3), frames, slots, tile=tile)
    assert distance(found, plain_conv(x, weight, bias)) < TOLERANCE


def test_few_pixels_are_computed_in_few_rounds() -> None:
    def tile(num_frames: int, height: int, width: int) -> tuple[int, int]:
        found = tiles.choose_tile(384, 384, num_frames, height * (width + 2), residual=False)
        return found.pixels, found.channels

    assert tile(1, 60, 104) == tile(1, 90, 80) == (64, 192), "all of them at once, two on a multiprocessor"
    assert tile(1, 90, 160) == (128, 192), "two rounds, not three"
    assert tile(1, 100, 100) == (128, 128), "no fewer rounds, or no longer ones"
    assert tile(2, 180, 320) == (256, 128)


@pytest.mark.parametrize(
    ("time_factor", "channels_per_output"), [(1, 1), (1, 2), (1, 8), (2, 1), (2, 2), (2, 4), (3, 5)]
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("n", "shape"),
    [(24, (1, 1, 1)), (8, (2, 1, 5)), (80, (3, 7, 1)), (24, (2, 9, 17)), *[(512, (2, 45, 37))] * GPU],
)
def test_shortcut_around_upsampling(
    time_factor: int, channels_per_output: int, first: bool, n: int, shape: tuple[int, int, int]
) -> None:
    """All frames at once and some at a time, at the clip's start and later."""
    torch.manual_seed(n + channels_per_output)
    first_frame = time_factor - 1 if first else 0
    num_frames = shape[0] * time_factor - first_frame
    x, skip = random(num_frames, *shape[1:], 16), random(*shape, channels_per_output * n)
    weight, bias = random(n, 16, 3, 3) / 12, random(n)
    expected = plain_upsample_conv(x, weight, bias).movedim(-1, 0)[None]
    state = ClipState()
    state.first = first
    add_duplicate_up(expected, skip.double().movedim(-1, 0)[None], time_factor, 2, state)
    frames, slots = frames_of(x)
    matrix = fold_upsampling(weight)
    for sizes in ([num_frames], [1] * num_frames, [2] * (num_frames // 2) + [1] * (num_frames % 2)):
        shortcut, pieces, done = Shortcut(skip, time_factor, first_frame), [], 0
        for size in sizes:
            part = slots[done : done + size]
            pieces.append(direct_conv(matrix, bias, (1, 2, 2), frames, part, up=2, shortcut=shortcut))
            shortcut, done = shortcut.after(size), done + size
        assert shortcut is None and done == num_frames
        assert distance(torch.cat(pieces), expected[0].movedim(0, -1)) < 2 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("time_factor", "channels_per_output"), [(1, 2), (2, 2), (2, 1), (1, 4)])
def test_shortcut_of_16_bits_is_the_number_itself(
    dtype: torch.dtype, time_factor: int, channels_per_output: int
) -> None:
    skip = torch.randn(2, 3, 5, channels_per_output * 24).to(DEVICE, dtype)
    frames = PaddedFramePool(3, 5, 16, dtype, DEVICE)
    slots = frames.take(2 * time_factor)
    frames.data.zero_()
    zeros = torch.zeros(4 * 24, 4 * 16, dtype=dtype, device=DEVICE)
    shortcut = Shortcut(skip, time_factor, 0)
    found = direct_conv(zeros, zeros[:24, 0], (1, 2, 2), frames, slots, up=2, shortcut=shortcut)
    state = ClipState()
    state.first = False
    expected = torch.zeros(1, 24, 2 * time_factor, 6, 10, dtype=dtype, device=DEVICE)
    add_duplicate_up(expected, skip.movedim(-1, 0)[None], time_factor, 2, state)
    assert torch.equal(found, expected[0].movedim(0, -1))
