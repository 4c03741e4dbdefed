"""Compiles and starts `upsample_conv.cu`: a picture enlarged twice and convolved 3x3, on Hopper GPUs.

The plain equal is in `layers.Upsample`; elsewhere, and for the few shapes that this one does not take, it is
`launchers.conv` with up = 2.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from wanvae_app.kernels import nvrtc
from wanvae_app.kernels.launchers import Shortcut
from wanvae_app.kernels.nvrtc import DEPTH, TILE_COLUMNS, TILE_ROWS
from wanvae_app.kernels.packed_weights import fold_upsampling
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.kernels.tiles import parts, processors_of, split

# What a block of so many channels takes, of what the first one does (measured on an H100).
COSTS = {64: 1.0, 96: 1.55, 32: 0.66}


def pack(weight: Tensor) -> Tensor:
    """Weights [N, C, 3, 3] for the picture as it was, of four phases and the four taps of each: [4 taps, 4, N, C]."""
    n, c = weight.shape[:2]
    return fold_upsampling(weight).view(4, n, 4, c).permute(2, 0, 1, 3).contiguous()


def is_supported(c: int, n: int, copies: int) -> bool:
    """Whether the kernel takes these widths, c in and n out, and a shortcut with so many channels for each of the n."""
    return c >= 32 and n >= 32 and copies <= 2


def upsample_conv(
    weights: Tensor,
    bias: Tensor,
    frames: PaddedFrames,
    slots: Slots,
    shortcut: Shortcut | None = None,
) -> Tensor:
    """The 3x3 convolution of padded frames enlarged to twice their size, plus `shortcut`: [T, 2 H, 2 W, N].

    `weights` come from `pack`, `slots` are those of the T frames.
    """
    data = frames.data
    _, rows, columns, c = data.shape
    num_frames, height, width, n = len(slots), rows - 2, columns - 2, bias.shape[0]
    assert data.dtype == weights.dtype == bias.dtype, (data.dtype, weights.dtype, bias.dtype)
    skip, time, start = shortcut or (bias[None], 1, 0)
    if shortcut is not None:
        assert skip.is_contiguous() and start + num_frames <= time * len(skip), (
            skip.shape,
            start,
            num_frames,
        )
        assert skip.shape[1:3] == (height, width) and skip.shape[3] in (n, 2 * n), (
            skip.shape,
            height,
            width,
            n,
        )
    out = torch.empty(num_frames, 2 * height, 2 * width, n, dtype=bias.dtype, device=data.device)
    if out.is_meta:
        return out
    processors = processors_of(data.device)
    side_by_side = -(-width // TILE_COLUMNS)
    places = side_by_side * -(-height // TILE_ROWS) * num_frames
    channels, _ = split(n, COSTS, places, processors)
    phases = [out[:, dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)]
    for part in parts(n, channels, places, c // 2, COSTS, processors // 2):
        maps = [  # [slots, H + 2, W + 2, C] and [taps, phases, N, C]: what lies beyond is read as zero
            nvrtc.tensor_map(data, (DEPTH, TILE_COLUMNS + 2, TILE_ROWS + 2, 1)),
            nvrtc.tensor_map(weights, (DEPTH, part.width, 2, 1)),
            *(nvrtc.tensor_map(phase, (32, 8, 2, 1)) for phase in phases),
        ]
        numbers = num_frames, height, width, c, n, start, part.blocks, side_by_side, part.begin, part.end
        pointers = (ctypes.c_void_p(x.data_ptr()) for x in (frames.table(slots), bias, skip))
        kernel = kernel_for(part.width, skip.shape[-1] // n if shortcut else 0, time, bias.dtype)
        clusters = min(part.end - part.begin, processors // 2)  # each takes one tile after another
        kernel.start(clusters, data.device, [*maps, *pointers, *map(ctypes.c_int, numbers)], part.dependent)
    return out


def kernel_for(width: int, channels: int, time: int, dtype: torch.dtype) -> nvrtc.Kernel:
    """`upsample_conv.cu` for blocks of `width` channels, with a shortcut that has `channels` for each of the result's
    and one frame for each `time` of the result's."""
    half = dtype == torch.float16
    macros = {"CHANNELS": channels, "TIME": time, "HALF": half, "PAIR": True}
    return nvrtc.Kernel("upsample_conv", width, "f16" if half else "bf16", tuple(macros.items()))
