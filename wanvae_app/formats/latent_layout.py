"""Which dimension of a latent is time: told by its shape, and where that leaves it open by its values."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig

CHANNELS_FIRST, FRAMES_FIRST = "channels first", "frames first"
ORDERS = (CHANNELS_FIRST, FRAMES_FIRST)
MIN_SQUARE = 1e-12  # so that a ratio of equal values is 1
# How clearly the values must tell frames from channels, see `_evidence_of_order`. Of 960 simulated clips each, 96% gave
# more where neighbouring frames correlate by 0.4, and all where by 0.7; of those whose frames have nothing in common,
# 1 was read the wrong way round. Noise gives -3 to 3.
CLEAR_ORDER = 5.5
READ_AS_STORED = "frames before channels, [T, C, H, W], as its shape says"
JUDGED_FRAMES_FIRST = "frames before channels, [T, C, H, W], because neighbours along the first are alike"
DOUBTFUL = "channels before frames, [C, T, H, W], though its values fit both: exchange them if it looks wrong"
CHOSEN = {
    CHANNELS_FIRST: "channels before frames, [C, T, H, W], as you chose",
    FRAMES_FIRST: "frames before channels, [T, C, H, W], as you chose",
}


class LatentShape(NamedTuple):
    """The shape [1, C, T, H, W] of one clip's latent."""

    batch: int
    channels: int
    num_latents: int
    height: int
    width: int


class LatentLayout(NamedTuple):
    """How a tensor holds the latents of one clip or several."""

    shape: LatentShape  # of each clip
    is_frames_first: bool = False  # each clip is [T, C, H, W]
    num_clips: int = 1


def find_layout(shape: tuple[int, ...], config: WanConfig, order: str = "") -> LatentLayout | None:
    """The layout of a tensor of this shape; None if it is no latent of this VAE.

    The batch may be missing, or a picture's time. Frames may come before channels, unless their number is the number of
    another family's channels. `order`, one of ORDERS, leaves only that one; empty: either.
    """
    channels = config.z_dim
    num_clips = shape[0] if len(shape) == 5 else 1
    if len(shape) == 5 or (len(shape) == 4 and shape[0] == 1 and shape[1] == channels):
        shape = shape[1:]
    if len(shape) == 3 and shape[0] == channels:
        return LatentLayout(LatentShape(1, channels, 1, *shape[1:]), False, num_clips)
    if len(shape) != 4:
        return None
    if shape[0] == channels and order != FRAMES_FIRST:
        return LatentLayout(LatentShape(1, *shape), False, num_clips)
    if shape[1] == channels and order != CHANNELS_FIRST:
        num_latents, _, height, width = shape
        if not order and num_latents in {preset.z_dim for preset in PRESETS.values()}:
            return None
        return LatentLayout(LatentShape(1, channels, num_latents, height, width), num_latents > 1, num_clips)
    return None


def as_clip(values: Tensor, layout: LatentLayout, order: str = "") -> tuple[Tensor, str]:
    """One clip's values as [1, C, T, H, W], contiguous, and how they were read, as a part of a sentence; "" as usual.

    `order` is what `find_layout` got.
    """
    shape = layout.shape
    if layout.is_frames_first:
        z = _exchanged(values.reshape(1, shape.num_latents, shape.channels, *shape[3:]))
        return z, CHOSEN.get(order, READ_AS_STORED)
    z = values.reshape(shape)
    if shape.channels != shape.num_latents or order:
        return z, CHOSEN.get(order, "")
    evidence = _evidence_of_order(z[0])
    if evidence > CLEAR_ORDER:
        return z, ""
    return (_exchanged(z), JUDGED_FRAMES_FIRST) if evidence < -CLEAR_ORDER else (z, DOUBTFUL)


def _exchanged(z: Tensor) -> Tensor:
    return z.transpose(1, 2).contiguous()


def _evidence_of_order(z: Tensor) -> float:
    """How much speaks for z being [C, T, H, W] rather than [T, C, H, W]; 0 if a value is no number.

    Neighbouring frames are alike, which neighbouring channels are not. Means differ from channel to channel, by the
    family and the clip's colours, and hardly from frame to frame. The second is weighed less: noise has it by chance.
    """
    alike = math.log((_mean_step(z, 0) + MIN_SQUARE) / (_mean_step(z, 1) + MIN_SQUARE))
    levels = math.log((_variance_of_means(z, 0) + MIN_SQUARE) / (_variance_of_means(z, 1) + MIN_SQUARE))
    evidence = 12 * alike + 2 * max(-1.5, min(levels, 1.5))
    return evidence if math.isfinite(evidence) else 0.0


def _variance_of_means(z: Tensor, dim: int) -> float:
    """Variance of the means of the slices along a dimension; 0 if a value is no number."""
    variance = float(torch.stack([part.double().mean() for part in z.unbind(dim)]).var())
    return variance if math.isfinite(variance) else 0.0


def _mean_step(z: Tensor, dim: int) -> float:
    """Mean square of the difference between neighbours along a dimension; 0 if a value is no number.

    Goes slice by slice, in float64, because the values are not checked yet.
    """
    slices = z.unbind(dim)
    steps = [
        float((b.double() - a.double()).square().mean()) for a, b in zip(slices, slices[1:], strict=False)
    ]
    mean = sum(steps) / len(steps)
    return mean if math.isfinite(mean) else 0.0
