"""LatentShape: the size of a clip's latent, and the refusal of what a VAE cannot take."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.frame_log import FrameLog


class LatentShape(NamedTuple):
    """C T H W of the latent of one clip."""

    num_channels: int
    num_latents: int  # latent frames
    height: int
    width: int


def shape_of_latent(latent: Tensor, config: WanConfig) -> LatentShape:
    """Return the shape of a latent [1 C T H W].

    Raises ValueError if this VAE cannot decode it: another shape, no element, a NaN or an infinity.
    """
    if latent.dim() != 5 or len(latent) != 1 or latent.shape[1] != config.z_dim or not latent.numel():
        raise ValueError(
            f"A latent of shape {list(latent.shape)} cannot be decoded: this VAE takes "
            f"[1, {config.z_dim}, T, H, W]."
        )
    if not bool(torch.isfinite(latent).all()):
        raise ValueError("The latent holds values that are not numbers (NaN or infinity).")
    return LatentShape(*latent.shape[1:])


def shape_of_encoded(frames: FrameLog, config: WanConfig) -> LatentShape:
    """Return the shape of the latent that these frames encode to.

    Raises ValueError if this VAE cannot encode them: sides that are no multiples of its spatial factor, or a number of
    frames other than 1 + 4 k.
    """
    factor = config.spatial_factor
    height, width = frames.height // factor, frames.width // factor
    if (height * factor, width * factor) != (frames.height, frames.width) or not height or not width:
        raise ValueError(
            f"A video of {frames.width}x{frames.height} cannot be encoded: its sides must be multiples "
            f"of {factor}."
        )
    return LatentShape(config.z_dim, config.num_latents(len(frames)), height, width)
