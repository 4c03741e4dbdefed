"""Convolutions for every GPU since Ampere: packs weights and starts `mma_conv.cu`.

One kernel takes all of a VAE's convolutions: 3x3x3 directly, by Winograd's F(2, 3) or by F(4, 3) along time; 3x1x1; and
3x3 of a picture enlarged twice. The plain equals are `model.layers.CausalConv3d` and `Upsample`.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from wanvae_app.kernels import winograd
from wanvae_app.kernels.capability import capability_of
from wanvae_app.kernels.launch import show
from wanvae_app.kernels.mma_kernel import (
    PLANES,
    REGION_COLUMNS,
    Block,
    MmaKernel,
    choose_block,
)
from wanvae_app.kernels.packed_weights import fold_upsampling
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.kernels.shortcut import Shortcut


def choose_frames_per_tile(num_frames: int) -> int:
    """Return how many of `num_frames` frames to make together by Winograd's algorithm: 4 or 2, or 0 for directly.

    Where products limit a card, F(4, 3) takes half of the time and F(2, 3) two thirds.
    """
    return 4 if num_frames % 4 == 0 else 2 if num_frames % 2 == 0 else 0


def pack(weight: Tensor, block: Block, dtype: torch.dtype) -> Tensor:
    """Pack weights [N, C, kt, kh, kw] of a convolution in space and time for this block.

    With `block.taps` 2 the weights [N, C, 3, 3] are those of a convolution of an enlarged picture.
    """
    if block.taps == 2:
        n, c = weight.shape[:2]
        phases = fold_upsampling(weight).view(4, n, 2, 2, c)
        return pack_taps(phases.permute(0, 2, 3, 1, 4)[:, :, :, None].to(dtype), block)
    if block.frames == 1:
        return pack_taps(weight.permute(3, 4, 2, 0, 1)[None].to(dtype), block)
    return pack_taps(winograd.pack(weight, block.frames).unflatten(0, (3, 3))[None], block)


def pack_taps(taps: Tensor, block: Block) -> Tensor:
    """Lay taps [phases, kh, kw, products, N, C] out as the kernel copies them into shared memory.

    The result is [phases, blocks of channels out, rounds, steps, kw, kh, planes, width, depth]. Zeros fill the last
    block and the last step. The 16-byte chunks of a row of `depth` numbers are swizzled as `place` in `mma_conv.cu`
    does it.
    """
    phases, kh, kw, products, n, c = taps.shape
    planes, width, depth = PLANES[block.frames], block.width, block.depth
    blocks, steps, chunks = -(-n // width), -(-c // depth), depth // 8
    taps = F.pad(taps, (0, steps * depth - c, 0, blocks * width - n))
    taps = taps.view(phases, kh, kw, products // planes, planes, blocks, width, steps, chunks, 8)
    taps = taps.permute(0, 5, 3, 7, 2, 1, 4, 6, 8, 9)
    row = torch.arange(width, device=taps.device)
    swizzle = row >> 2 & 1 if depth == 16 else row >> 1 & 3
    chunk = torch.arange(chunks, device=taps.device) ^ swizzle[:, None]
    return taps[..., row[:, None], chunk, :].contiguous()


def block_for(device: torch.device, c: int, n: int, frames_per_tile: int, taps: int) -> Block:
    """Return the block that convolves on this device: `mma_conv` takes it, and `pack` packs for it.

    `frames_per_tile` is that of `choose_frames_per_tile`, and `taps` that of `Block`.
    """
    return choose_block(c, n, frames_per_tile or 1, taps, capability_of(device))


def mma_conv(
    weights: Tensor,
    bias: Tensor,
    block: Block,
    time_taps: int,
    frames: PaddedFrames,
    slots: Slots,
    residual: Tensor | None = None,
    into: tuple[PaddedFrames, Slots] | None = None,
    in_place: bool = False,
    shortcut: Shortcut | None = None,
) -> Tensor:
    """Convolve padded frames: return T frames [T, H, W, N] in the dtype of `bias` [N], bf16 or fp16.

    `weights` come from `pack` or `pack_taps` for this block. `slots` name `time_taps` - 1 past and T present frames;
    for two frames per tile two past and T present ones; for four the T / 4 * 6 frames that `transform` made of them.
    Frames and weights may be fp16 in a bf16 model.

    `residual` [T, H, W, N] is added; with `in_place` the sum is written over it, because each thread reads a number
    before it stores the same. The result can be written `into` slots of padded frames, whose data is returned.

    A block with two rows of taps makes frames [T, 2 H, 2 W, N] of an enlarged picture, and can add a `shortcut`.
    """
    data = frames.data
    _, rows, columns, c = data.shape
    height, width, n, up = rows - 2, columns - 2, bias.shape[0], 2 if block.taps == 2 else 1
    num_frames = {1: len(slots) - time_taps + 1, 2: len(slots) - 2, 4: len(slots) // 6 * 4}[block.frames]
    assert data.dtype == weights.dtype, (data.dtype, weights.dtype)
    assert num_frames % block.frames == 0, (len(slots), block)
    if in_place:
        assert residual is not None and residual.dtype == bias.dtype and residual.is_contiguous() and not into
        out = residual
    elif into is not None:
        out = into[0].data
    else:
        out = torch.empty(num_frames, up * height, up * width, n, dtype=bias.dtype, device=data.device)
    per_output = time_factor = 0
    if shortcut is not None:
        assert up == 2, block
        shortcut.check(num_frames, height, width, n)
        per_output, time_factor = shortcut.channels_per_output(n), shortcut.time_factor
    kernel = MmaKernel(
        block,
        time_taps if block.frames == 1 else 3,
        capability_of(data.device),
        "f16" if data.dtype == torch.float16 else "bf16",
        bias.dtype == torch.float16,
        c % block.depth != 0,
        residual is not None,
        into is not None,
        per_output,
        time_factor,
    )
    if out.is_meta:
        show(kernel)
        return out
    channel_blocks, regions_across = -(-n // block.width), -(-width // REGION_COLUMNS)
    num_regions = regions_across * -(-height // block.region_rows) * (num_frames // block.frames)
    table = frames.table(slots)
    pointers = (
        data,
        weights,
        table,
        bias,
        out if residual is None else residual,
        out if shortcut is None else shortcut.pixels,
        out,
        table if into is None else into[0].table(into[1]),
    )
    arguments = [
        *(ctypes.c_void_p(x.data_ptr()) for x in pointers),
        *map(ctypes.c_int, (num_frames, height, width, c, n, channel_blocks, regions_across)),
        ctypes.c_int(0 if shortcut is None else shortcut.first_frame),
    ]
    kernel.start(num_regions * channel_blocks * up * up, data.device, arguments)
    return out
