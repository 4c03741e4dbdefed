"""Pixels: uint8, or numbers in [-1, 1], or folded into channels as patches."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(frames: Tensor) -> Tensor:
    """Convert frames [1 C T H W] in [-1, 1] to pixels [T H W C] in 0..255: (x + 1) * 127.5, rounded to nearest."""
    pixels = frames[0].permute(1, 2, 3, 0).contiguous()
    return pixels.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert pixels [T H W C] in 0..255 to frames [1 C T H W] in [-1, 1]."""
    return pixels.to(torch.float32).div(127.5).sub(1).to(dtype).permute(3, 0, 1, 2)[None]


def with_channels(frames: Tensor, num_channels: int) -> Tensor:
    """Return frames [1 C T H W] in [-1, 1] with 3 or 4 channels: opaque alpha is added, or alpha is left out."""
    if num_channels <= frames.shape[1]:
        return frames[:, :num_channels]
    return torch.cat((frames, torch.ones_like(frames[:, :1])), 1)


def patchify(x: Tensor, patch: int) -> Tensor:
    """Fold squares of patch x patch pixels into channels: B C T H*patch W*patch to B C*patch*patch T H W.

    A channel's index is (c * patch + column) * patch + row, as in Wan2.2's wan/modules/vae2_2.py.
    """
    if patch == 1:
        return x
    x = x.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))
    x = x.permute(0, 2, 3, 5, 1, 6, 4).flatten(4)  # B T H W C*column*row
    return x.movedim(-1, 1)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """Unfold channels into squares of pixels: the inverse of `patchify`."""
    if patch == 1:
        return x
    x = x.unflatten(1, (-1, patch, patch)).permute(0, 4, 5, 3, 6, 2, 1)  # B T H row W column C
    return x.flatten(4, 5).flatten(2, 3).movedim(-1, 1)
