"""How a program's tensor holds a latent or a video: told by its shape, and refused if this VAE cannot take it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.formats.latent_file import MAX_LATENT_SIDE, MAX_NUM_LATENTS, MAX_VALUES
from wanvae_app.formats.video_plan import MAX_FRAMES, MAX_PIXELS
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.page.remote_request import DecodeRequest, TensorHeader

PACK = 2  # side of the square of latent pixels that packed latents fold into channels


def is_packed(request: DecodeRequest) -> bool:
    """Whether the latent is packed, as Qwen-Image's pipelines hand it out: [1, H/2 W/2, 4 C]."""
    return len(request.tensor.shape) == 3 and request.size is not None


def is_picture(shape: tuple[int, ...], num_channels: int) -> bool:
    """Whether a tensor of this shape has no time: [1, C, H, W]."""
    return len(shape) == 4 and shape[:2] == (1, num_channels)


def latent_layout(request: DecodeRequest, config: WanConfig) -> LatentShape:
    """Return C T H W of a latent [1 C T H W], [C T H W], [1 C H W], or packed.

    Raises ValueError, in one sentence, for another shape, for numbers that are no floats, and for one that is too
    large.
    """
    shape, channels = request.tensor.shape, config.z_dim
    if not request.tensor.dtype.is_floating_point:
        raise ValueError("A latent has floating-point numbers, as latent.float() makes them, not uint8.")
    if is_packed(request):
        found = _packed_layout(request, config)
    elif len(shape) == 5 and shape[:2] == (1, channels):
        found = LatentShape(*shape[1:])
    elif is_picture(shape, channels):
        found = LatentShape(channels, 1, *shape[2:])
    elif len(shape) == 4 and shape[0] == channels:
        found = LatentShape(*shape)
    else:
        batch = len(shape) == 5 and shape[1] == channels
        advice = "; send the clips of a batch one after the other" if batch else ""
        raise ValueError(
            f"A latent of shape {list(shape)} cannot be decoded: this VAE takes [1, {channels}, T, H, W]{advice}."
        )
    side = max(found.height, found.width)
    if math.prod(found) > MAX_VALUES or found.num_latents > MAX_NUM_LATENTS or side > MAX_LATENT_SIDE:
        raise ValueError(
            f"A latent of shape {list(shape)} is too large; at most {MAX_NUM_LATENTS} latent frames, {MAX_LATENT_SIDE} "
            f"rows and columns and {MAX_VALUES} values are taken."
        )
    return found


def video_layout(tensor: TensorHeader) -> tuple[int, int, int]:
    """Return T H W of a video's tensor. Raises ValueError, in one sentence, for another shape."""
    shape = tensor.shape
    if tensor.dtype == torch.uint8:
        if len(shape) == 4 and shape[3] == 3:
            return shape[0], shape[1], shape[2]
        raise ValueError(f"A video of uint8 has the shape [T, H, W, 3], not {list(shape)}.")
    if len(shape) == 5 and shape[:2] == (1, 3):
        return shape[2], shape[3], shape[4]
    if is_picture(shape, 3):
        return 1, shape[2], shape[3]
    if len(shape) == 4 and shape[0] == 3:
        return shape[1], shape[2], shape[3]
    raise ValueError(
        f"A video of shape {list(shape)} cannot be encoded: send uint8 [T, H, W, 3], or floats in [-1, 1] "
        "[1, 3, T, H, W]."
    )


def video_shape(tensor: TensorHeader, config: WanConfig) -> LatentShape:
    """Return C T H W of a video's latent. Raises ValueError, in one sentence, if this VAE cannot encode it."""
    return encoded_shape(*video_layout(tensor), config)


def _packed_layout(request: DecodeRequest, config: WanConfig) -> LatentShape:
    assert request.size is not None
    batch, num_patches, packed_channels = request.tensor.shape
    height, width = (PACK * (side // (config.output_factor * PACK)) for side in request.size)
    if (batch, num_patches, packed_channels) != (1, height * width // PACK**2, config.z_dim * PACK**2):
        raise ValueError(
            f"A packed latent of shape {list(request.tensor.shape)} does not fit {request.size[1]}x{request.size[0]} "
            f"pixels: that has [1, {height * width // PACK**2}, {config.z_dim * PACK**2}]."
        )
    return LatentShape(config.z_dim, 1, height, width)


def unpacked(z: Tensor, shape: LatentShape) -> Tensor:
    """Return a packed latent as [1 C 1 H W], as diffusers' `QwenImagePipeline._unpack_latents` does."""
    z = z.reshape(shape.height // PACK, shape.width // PACK, shape.num_channels, PACK, PACK)
    return z.permute(2, 0, 3, 1, 4).reshape(1, *shape)


def encoded_shape(num_frames: int, height: int, width: int, config: WanConfig) -> LatentShape:
    """Return C T H W of the latent of a video. Raises ValueError, in one sentence, if it cannot be encoded."""
    factor = config.spatial_factor
    if not height or not width or height % factor or width % factor:
        raise ValueError(
            f"A video of {width}x{height} cannot be encoded: its sides must be multiples of {factor}."
        )
    if height * width > MAX_PIXELS or num_frames > MAX_FRAMES:
        raise ValueError(
            f"A video of {num_frames} frames of {width}x{height} is too large; at most {MAX_FRAMES} frames of "
            f"{MAX_PIXELS} pixels are taken."
        )
    return LatentShape(config.z_dim, config.num_latents(num_frames), height // factor, width // factor)
