"""The upsampling convolution of `upsample_conv.cu` against float64: the weights everywhere, the kernel on a Hopper GPU.

python -m pytest tests/kernels/test_upsample_conv.py
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from torch import Tensor

from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import add_duplicate_up

upsample_conv = pytest.importorskip("wanvae_app.kernels.upsample_conv")
launchers = pytest.importorskip("wanvae_app.kernels.launchers")
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_hopper = pytest.mark.skipif(not HOPPER, reason="the kernel needs a Hopper GPU")
DEVICE = torch.device("cuda" if HOPPER else "cpu")


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [T, H, W, C] enlarged and convolved: [T, 2 H, 2 W, N]."""
    large = x.double().repeat_interleave(2, 1).repeat_interleave(2, 2).movedim(-1, 1)
    return F.conv2d(large, weight.double(), bias.double(), padding=1).movedim(1, -1)


def test_each_phase_sees_four_pixels() -> None:
    x = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    weight, bias = torch.randn(12, 8, 3, 3, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    taps = upsample_conv.pack(weight)
    assert taps.shape == (4, 4, 12, 8)
    padded, expected = F.pad(x, (0, 0, 1, 1, 1, 1)), plain(x, weight, bias)
    for phase in range(4):
        dy, dx = divmod(phase, 2)
        found = bias + sum(
            padded[:, dy + tap // 2 :, dx + tap % 2 :][:, :5, :6] @ taps[tap, phase].T for tap in range(4)
        )
        assert distance(found, expected[:, dy::2, dx::2]) < 1e-6  # the taps are summed in float32


@pytest.mark.parametrize("n", [32, 96, 192, 256, 512, 1024])
def test_blocks_hold_all_channels(n: int) -> None:
    for places in (1, 30, 105, 3600):
        width, blocks = upsample_conv.split(n, upsample_conv.COSTS, places)
        assert n <= width * blocks < n + 96
        kernel = upsample_conv.kernel_for(width, 2, 1, torch.bfloat16)
        assert kernel.stages >= 5 and kernel.memory() <= 227 * 1024  # four of them are taken by results


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("c", "n"), [(32, 32), (40, 48), (96, 96), (192, 96), (384, 192), (160, 160), (512, 256), (1024, 64)]
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (3, 9, 1), (2, 8, 16), (5, 17, 33), (4, 130, 70)])
def test_upsampling_convolution(dtype: torch.dtype, c: int, n: int, shape: tuple[int, int, int]) -> None:
    tolerance = 2.5e-3 if dtype == torch.bfloat16 else 6e-4
    torch.manual_seed(c + n)
    x = torch.randn(*shape, c, device=DEVICE).to(dtype)
    weight = (torch.randn(n, c, 3, 3, device=DEVICE) / (9 * c) ** 0.5).to(dtype)
    bias = torch.randn(n, device=DEVICE).to(dtype)
    frames = PaddedFramePool(shape[1], shape[2], c, dtype, DEVICE)
    slots = frames.take(len(x) + 2)[::-1][: len(x)]
    frames.data[1:, 1:-1, 1:-1] = float("nan")  # what was never written must not be read
    frames.data[list(slots), 1:-1, 1:-1] = x
    weights, expected = upsample_conv.pack(weight), plain(x, weight, bias)
    # Taps that are added up are rounded once more.
    assert distance(upsample_conv.upsample_conv(weights, bias, frames, slots), expected) < 1.5 * tolerance
    for time, channels in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 2)):
        skip = torch.randn(-(-(len(x) + 1) // time), *shape[1:], channels * n, device=DEVICE).to(dtype)
        assert upsample_conv.is_supported(c, n, channels)
        state = ClipState()
        state.first = False
        every = torch.zeros(1, n, time * len(skip), 2 * shape[1], 2 * shape[2], device=DEVICE)
        add_duplicate_up(every, skip.float().movedim(-1, 0)[None], time, 2, state)
        added = every[0].movedim(0, -1)
        for start in (0, 1):
            if start + len(x) <= len(added):
                shortcut = launchers.Shortcut(skip, time, start)
                found = upsample_conv.upsample_conv(weights, bias, frames, slots, shortcut)
                assert distance(found, expected + added[start : start + len(x)]) < 1.5 * tolerance


@needs_hopper
@pytest.mark.parametrize(("c", "n", "shape"), [(192, 96, (6, 45, 80)), (384, 192, (4, 90, 80))])
def test_the_same_again(c: int, n: int, shape: tuple[int, int, int]) -> None:
    """No race shows: many launches, the same bits. The second one's last tiles go in narrower blocks."""
    places = -(-shape[1] // 8) * -(-shape[2] // 16) * shape[0]
    width, _ = upsample_conv.split(n, upsample_conv.COSTS, places)
    assert len(upsample_conv.parts(n, width, places, c // 2, upsample_conv.COSTS, 66)) == 1 + (n == 192)
    x = torch.randn(*shape, c, device=DEVICE).bfloat16()
    weight = (torch.randn(n, c, 3, 3, device=DEVICE) / (9 * c) ** 0.5).bfloat16()
    bias = torch.randn(n, device=DEVICE).bfloat16()
    frames = PaddedFramePool(*shape[1:], c, torch.bfloat16, DEVICE)
    slots = frames.take(len(x))
    frames.data[list(slots), 1:-1, 1:-1] = x
    weights = upsample_conv.pack(weight)
    first = upsample_conv.upsample_conv(weights, bias, frames, slots)
    assert distance(first, plain(x, weight, bias)) < 4e-3
    for _ in range(20):
        assert torch.equal(upsample_conv.upsample_conv(weights, bias, frames, slots), first)


def test_few_channels_are_left_to_others() -> None:
    assert upsample_conv.is_supported(32, 32, 2)
    for c, n, copies in ((16, 64, 0), (64, 24, 0), (64, 64, 4)):
        assert not upsample_conv.is_supported(c, n, copies)
