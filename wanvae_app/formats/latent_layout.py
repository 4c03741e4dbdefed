"""Which dimension of a latent is time: told by its shape, and where that leaves it open by its values."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig

# How many times as much neighbouring channels must differ as neighbouring latent frames do. Six clips' latents of the demo
# VAE, raw and normalised, gave 1.4 to 88; noise 0.98 to 1.08. Latents of Wan's own weights were not tried.
CLEAR_RATIO = 1.2
READ_AS_STORED = "frames before channels, [T, C, H, W], as its shape says"
JUDGED_FRAMES_FIRST = "frames before channels, [T, C, H, W], because neighbours along the first are alike"
DOUBTFUL = "channels before frames, [C, T, H, W], though its values fit both: exchange them if it looks wrong"


class LatentShape(NamedTuple):
    """The shape [1, C, T, H, W] of one clip's latent."""

    batch: int
    channels: int
    num_latents: int
    height: int
    width: int


class LatentLayout(NamedTuple):
    """How a tensor holds one clip's latent."""

    shape: LatentShape  # of the clip
    is_frames_first: bool = False  # the tensor is [T, C, H, W], perhaps with a batch of 1 in front


def find_layout(shape: tuple[int, ...], config: WanConfig) -> LatentLayout | None:
    """The layout of a tensor of this shape; None if it is no latent of this VAE.

    The batch may be missing, or a picture's time. Frames may come before channels, unless their number is the number of
    another family's channels.
    """
    channels = config.z_dim
    if len(shape) == 5 and shape[0] == 1:
        shape = shape[1:]
    elif len(shape) == 5:
        return None
    if len(shape) == 4 and shape[0] == channels:
        return LatentLayout(LatentShape(1, *shape))
    if len(shape) == 4 and shape[1] == channels:
        num_latents, _, height, width = shape
        if num_latents in {preset.z_dim for preset in PRESETS.values()}:
            return None
        return LatentLayout(LatentShape(1, channels, num_latents, height, width), num_latents > 1)
    if len(shape) == 3 and shape[0] == channels:
        return LatentLayout(LatentShape(1, channels, 1, *shape[1:]))
    return None


def as_clip(values: Tensor, layout: LatentLayout) -> tuple[Tensor, str]:
    """The tensor as a clip [1, C, T, H, W], contiguous, and how it was read, as a part of a sentence; "" as usual."""
    shape = layout.shape
    if layout.is_frames_first:
        return _exchanged(values.reshape(1, shape.num_latents, shape.channels, *shape[3:])), READ_AS_STORED
    z = values.reshape(shape)
    if shape.channels != shape.num_latents:
        return z, ""
    between_channels, between_frames = _mean_step(z[0], 0), _mean_step(z[0], 1)
    if between_channels > CLEAR_RATIO * between_frames:
        return z, ""
    if between_frames > CLEAR_RATIO * between_channels:
        return _exchanged(z), JUDGED_FRAMES_FIRST
    return z, DOUBTFUL


def _exchanged(z: Tensor) -> Tensor:
    return z.transpose(1, 2).contiguous()


def _mean_step(z: Tensor, dim: int) -> float:
    """Mean square of the difference between neighbours along a dimension; infinite if a value is no number.

    Goes slice by slice, in float64, because the values are not checked yet.
    """
    slices = z.unbind(dim)
    steps = [
        float((b.double() - a.double()).square().mean()) for a, b in zip(slices, slices[1:], strict=False)
    ]
    mean = sum(steps) / len(steps)
    return mean if math.isfinite(mean) else torch.inf
