"""The upsampling convolution of `upsample_conv.cu` against float64: the weights everywhere, the kernel on a Hopper GPU.

python -m pytest tests/kernels/test_upsample_conv.py
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from support.hopper import DEVICE, needs_hopper
from support.padded import frames_of
from support.plain import plain_upsample_conv

from wanvae_app.kernels import rounds, upsample_conv
from wanvae_app.kernels.shortcut import Shortcut
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import add_duplicate_up


def test_each_phase_sees_four_pixels() -> None:
    x = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    weight, bias = torch.randn(12, 8, 3, 3, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    taps = upsample_conv.pack(weight)
    assert taps.shape == (4, 4, 12, 8)
    padded, expected = F.pad(x, (0, 0, 1, 1, 1, 1)), plain_upsample_conv(x, weight, bias)
    for phase in range(4):
        dy, dx = divmod(phase, 2)
        found = bias + sum(
            padded[:, dy + tap // 2 :, dx + tap % 2 :][:, :5, :6] @ taps[tap, phase].T for tap in range(4)
        )
        assert distance(found, expected[:, dy::2, dx::2]) < 1e-6  # the taps are summed in float32


@pytest.mark.parametrize("width", upsample_conv.COSTS)
def test_shared_memory_suffices(width: int) -> None:
    kernel = upsample_conv.kernel_for(width, 2, 1, torch.bfloat16)
    assert kernel.stages >= 5 and kernel.shared_bytes <= 227 * 1024  # four stages are taken by results


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
    frames, slots = frames_of(x)
    weights, expected = upsample_conv.pack(weight), plain_upsample_conv(x, weight, bias)
    # Taps that are added up are rounded once more.
    assert distance(upsample_conv.upsample_conv(weights, bias, frames, slots), expected) < 1.5 * tolerance
    for time_factor, channels_per_output in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 2)):
        shape_of_skip = -(-(len(x) + 1) // time_factor), *shape[1:], channels_per_output * n
        skip = torch.randn(shape_of_skip, device=DEVICE).to(dtype)
        assert upsample_conv.is_supported(c, n, channels_per_output)
        state = ClipState()
        state.first = False
        every = torch.zeros(1, n, time_factor * len(skip), 2 * shape[1], 2 * shape[2], device=DEVICE)
        add_duplicate_up(every, skip.float().movedim(-1, 0)[None], time_factor, 2, state)
        added = every[0].movedim(0, -1)
        for first_frame in (0, 1):
            if first_frame + len(x) <= len(added):
                shortcut = Shortcut(skip, time_factor, first_frame)
                found = upsample_conv.upsample_conv(weights, bias, frames, slots, shortcut)
                both = expected + added[first_frame : first_frame + len(x)]
                assert distance(found, both) < 1.5 * tolerance


@needs_hopper
@pytest.mark.parametrize(("c", "n", "shape"), [(192, 96, (6, 45, 80)), (384, 192, (4, 90, 80))])
def test_the_same_again(c: int, n: int, shape: tuple[int, int, int]) -> None:
    """No race shows: many launches, the same bits. With 192 channels the last tiles go in narrower blocks."""
    num_regions, costs = -(-shape[1] // 8) * -(-shape[2] // 16) * shape[0], upsample_conv.COSTS
    width = rounds.choose_width(n, costs, num_regions)
    launches = rounds.plan_launches(n, width, num_regions, c // 2, costs, rounds.H100_CLUSTERS)
    assert len(launches) == 1 + (n == 192)
    x = torch.randn(*shape, c, device=DEVICE).bfloat16()
    weight = (torch.randn(n, c, 3, 3, device=DEVICE) / (9 * c) ** 0.5).bfloat16()
    bias = torch.randn(n, device=DEVICE).bfloat16()
    frames, slots = frames_of(x)
    weights = upsample_conv.pack(weight)
    first = upsample_conv.upsample_conv(weights, bias, frames, slots)
    assert distance(first, plain_upsample_conv(x, weight, bias)) < 4e-3
    for _ in range(20):
        assert torch.equal(upsample_conv.upsample_conv(weights, bias, frames, slots), first)


def test_few_channels_are_left_to_others() -> None:
    assert upsample_conv.is_supported(32, 32, 2)
    for c, n, channels_per_output in ((16, 64, 0), (64, 24, 0), (64, 64, 4)):
        assert not upsample_conv.is_supported(c, n, channels_per_output)
