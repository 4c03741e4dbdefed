"""Pixels: between uint8 frames, numbers in [-1, 1], and patches folded into channels."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(frames: Tensor) -> Tensor:
    """Frames [1, 3, T, H, W] in [-1, 1] to pixels [T, H, W, 3] in 0..255, rounded to nearest."""
    pixels = frames[0].permute(1, 2, 3, 0).contiguous()
    return pixels.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels [T, H, W, 3] in 0..255 to frames [1, 3, T, H, W] in [-1, 1]."""
    return pixels.to(torch.float32).div(127.5).sub(1).to(dtype).permute(3, 0, 1, 2)[None]


def patchify(x: Tensor, patch: int) -> Tensor:
    """B C T (H patch) (W patch) to B (C patch patch) T H W; of the two, columns change slower."""
    if patch == 1:
        return x
    x = x.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))
    return x.permute(0, 2, 3, 5, 1, 6, 4).flatten(4).movedim(-1, 1)  # channels last in memory


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`."""
    if patch == 1:
        return x
    x = x.unflatten(1, (-1, patch, patch)).permute(0, 4, 5, 3, 6, 2, 1)  # B T H patch W patch C
    return x.flatten(4, 5).flatten(2, 3).movedim(-1, 1)
