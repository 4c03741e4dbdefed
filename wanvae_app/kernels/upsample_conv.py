"""3x3 convolutions of a picture enlarged twice, on Hopper GPUs: packs weights and starts `upsample_conv.cu`.

The plain equal is in `model.layers.Upsample`. On other GPUs, and for the few widths that this kernel does not take,
`direct_conv` does the same with up = 2.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from wanvae_app.kernels.cuda_driver import tensor_map
from wanvae_app.kernels.hopper_kernel import (
    DEPTH,
    INPUT_BOX,
    REGION_COLUMNS,
    REGION_ROWS,
    RESULT_BOX,
    HopperKernel,
)
from wanvae_app.kernels.launch import show
from wanvae_app.kernels.packed_weights import fold_upsampling
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.kernels.rounds import choose_width, count_clusters, plan_launches
from wanvae_app.kernels.shortcut import Shortcut

COSTS = {64: 1.0, 96: 1.55, 32: 0.66}  # `costs` as `rounds.py` describes them
MIN_CHANNELS = 32
MAX_CHANNELS_PER_OUTPUT = 2  # of a shortcut


def pack(weight: Tensor) -> Tensor:
    """Fold weights [N, C, 3, 3] to those for the small picture: [4 taps, 4 phases, N, C]."""
    n, c = weight.shape[:2]
    return fold_upsampling(weight).view(4, n, 4, c).permute(2, 0, 1, 3).contiguous()


def is_supported(c: int, n: int, channels_per_output: int) -> bool:
    """Return whether the kernel takes c channels in, n channels out, and a shortcut of so many channels for each."""
    return c >= MIN_CHANNELS and n >= MIN_CHANNELS and channels_per_output <= MAX_CHANNELS_PER_OUTPUT


def upsample_conv(
    weights: Tensor,
    bias: Tensor,
    frames: PaddedFrames,
    slots: Slots,
    shortcut: Shortcut | None = None,
) -> Tensor:
    """Enlarge the T padded frames in `slots` twice, convolve them 3x3, add `shortcut`: return [T, 2 H, 2 W, N].

    `weights` come from `pack`. They, `bias` [N], frames and shortcut are of one dtype, bf16 or fp16.
    """
    data = frames.data
    _, rows, columns, c = data.shape
    num_frames, height, width, n = len(slots), rows - 2, columns - 2, bias.shape[0]
    assert data.dtype == weights.dtype == bias.dtype, (data.dtype, weights.dtype, bias.dtype)
    channels_per_output = 0
    if shortcut is not None:
        shortcut.check(num_frames, height, width, n)
        channels_per_output = shortcut.channels_per_output(n)
        assert channels_per_output <= MAX_CHANNELS_PER_OUTPUT, channels_per_output
    out = torch.empty(num_frames, 2 * height, 2 * width, n, dtype=bias.dtype, device=data.device)
    added = shortcut or Shortcut(bias, 1, 0)  # without a shortcut nothing is read
    num_clusters = count_clusters(data.device)
    regions_across, regions_down = -(-width // REGION_COLUMNS), -(-height // REGION_ROWS)
    num_regions = regions_across * regions_down * num_frames
    block_width = choose_width(n, COSTS, num_regions, num_clusters)
    launches = plan_launches(n, block_width, num_regions, c // 2, COSTS, num_clusters)
    kernels = [
        kernel_for(launch.width, channels_per_output, added.time_factor, bias.dtype) for launch in launches
    ]
    if out.is_meta:
        for kernel in kernels:
            show(kernel)
        return out
    phases = [out[:, dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)]
    pointers = frames.table(slots), bias, added.pixels
    for launch, kernel in zip(launches, kernels, strict=True):
        arguments = [
            tensor_map(data, INPUT_BOX),  # [slots, H + 2, W + 2, C]: what lies beyond is read as zero
            tensor_map(weights, (DEPTH, launch.width, 2, 1)),  # [taps, phases, N, C]
            *(tensor_map(phase, RESULT_BOX) for phase in phases),
            *(ctypes.c_void_p(x.data_ptr()) for x in pointers),
            *map(ctypes.c_int, (num_frames, height, width, c, n, added.first_frame)),
            *map(ctypes.c_int, (launch.num_blocks, regions_across, launch.begin, launch.end)),
        ]
        clusters = min(launch.end - launch.begin, num_clusters)
        kernel.start(clusters, data.device, arguments, launch.dependent)
    return out


def kernel_for(width: int, channels_per_output: int, time_factor: int, dtype: torch.dtype) -> HopperKernel:
    """Return `upsample_conv.cu` for blocks of this width and this kind of shortcut (0 channels: none)."""
    half = dtype == torch.float16
    macros = {
        "CHANNELS_PER_OUTPUT": channels_per_output,
        "TIME_FACTOR": time_factor,
        "HALF": half,
        "PAIR": True,
    }
    return HopperKernel("upsample_conv", width, "f16" if half else "bf16", tuple(macros.items()))
