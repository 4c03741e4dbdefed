"""Zeros into some padded frames of a pool. The plain equal is `frames.data[slots] = 0`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from wanvae_app.kernels.launch import launch
from wanvae_app.kernels.padded_frames import PaddedFramePool, Slots


@triton.jit(do_not_specialize=["count"])
def zero_frames_kernel(
    frames,  # int32 [slots, count]: padded frames as words of 32 bits
    slots,  # int32 [T]: the frames that become zeros
    count,  # words of a frame
    BLOCK: tl.constexpr,  # words that a program writes
):
    """Programs: (words of a frame, T)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    base = frames + tl.load(slots + tl.program_id(1)).to(tl.int64) * count
    tl.store(base + i, tl.zeros((BLOCK,), tl.int32), i < count)


def zero_frames(pool: PaddedFramePool, slots: Slots) -> None:
    """Fill the frames in `slots` with zeros. They hold 16-bit numbers, an even count of them each."""
    count = pool.data[0].nbytes // 4
    launch(
        zero_frames_kernel, (triton.cdiv(count, 4096), len(slots)),
        pool.data.view(torch.int32), pool.table(slots), count, BLOCK=4096, num_warps=8,
    )  # fmt: skip
