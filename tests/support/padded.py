"""Padded frames for tests of kernels. Those that hold nothing are NaN: what was never written must not be read."""

from __future__ import annotations

import torch
from torch import Tensor

from wanvae_app.kernels.padded_frames import PaddedFramePool, Slots


def frames_of(x: Tensor, spare: int = 1) -> tuple[PaddedFramePool, Slots]:
    """A pool that holds x [T H W C] in slots that are not in order, and `spare` other slots."""
    pool = PaddedFramePool(x.shape[1], x.shape[2], x.shape[3], x.dtype, x.device)
    slots = pool.take(len(x) + spare)[::-1][: len(x)]
    pool.data[1:, 1:-1, 1:-1] = float("nan")
    pool.data[list(slots), 1:-1, 1:-1] = x
    return pool, slots


def frames_to_write(x: Tensor, channels: int, dtype: torch.dtype) -> tuple[PaddedFramePool, Slots]:
    """A pool with slots for frames of the number and size of x [T H W C], and two other slots."""
    pool = PaddedFramePool(x.shape[1], x.shape[2], channels, dtype, x.device)
    slots = pool.take(len(x) + 2)[2:]
    pool.data[1:, 1:-1, 1:-1] = float("nan")
    return pool, slots


def only_wrote(pool: PaddedFramePool, slots: Slots) -> bool:
    """Whether of the frames of `frames_to_write` none but those in `slots` were written."""
    others = [slot for slot in range(1, len(pool.data)) if slot not in slots]
    return bool(pool.data[others, 1:-1, 1:-1].isnan().all()) and not pool.data[0].any()
