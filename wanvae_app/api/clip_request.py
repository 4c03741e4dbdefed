"""ClipRequest: what is to be coded, checked on rank 0 before any rank starts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wanvae_app.codec import chunk_sizes
from wanvae_app.config import WanConfig
from wanvae_app.formats.latents import NOT_CERTAIN, guess_scaling, to_raw
from wanvae_app.model.pixels import from_uint8

Phase = Literal["decode", "encode"]
Scaling = Literal["raw", "normalised"]
Output = Literal["uint8", "float"]
Result = Literal["uint8", "float", "raw", "normalised"]
SCALINGS, OUTPUTS = ("raw", "normalised"), ("uint8", "float")
CALLER = 6  # from a warning here up to the program that calls `LoadedVae`


@dataclass(frozen=True)
class ClipRequest:
    """One clip and how it is coded. All ranks have the same one; JSON can hold its fields."""

    phase: Phase
    num_channels: int  # of the latent, as the other sizes are
    num_latents: int | None  # latent frames; None for as many as come
    height: int
    width: int
    chunk: int  # latent frames per chunk, after the first chunk
    result: Result  # which frames, or which latents

    @property
    def longest_chunk(self) -> int:
        """Latent frames of the longest chunk."""
        return self.chunk if self.num_latents is None else max(chunk_sizes(self.num_latents, self.chunk))

    def input_shape(self, num_latents: int, is_first: bool, config: WanConfig) -> tuple[int, ...]:
        """B C T H W of a chunk of the whole input that holds so many latent frames: of raw latents, or of frames."""
        if self.phase == "decode":
            return (1, self.num_channels, num_latents, self.height, self.width)
        factor = config.spatial_factor
        length = config.num_frames(num_latents) if is_first else config.temporal_factor * num_latents
        return (1, config.in_channels, length, self.height * factor, self.width * factor)

    def input_scale(self, config: WanConfig) -> int:
        """Rows of the input per latent row."""
        return config.spatial_factor if self.phase == "encode" else 1

    def output_scale(self, config: WanConfig) -> int:
        """Rows of the result per latent row."""
        return config.output_factor if self.phase == "decode" else 1


class PreparedClip(NamedTuple):
    """A request, and its input as the VAE takes it."""

    request: ClipRequest
    chunks: Iterator[Tensor]  # raw latents, frames in [-1, 1] or uint8 frames, B C T H W


def cut(clip: Tensor, request: ClipRequest, config: WanConfig) -> Iterator[Tensor]:
    """Yield the chunks of a whole clip [B C T H W]."""
    assert request.num_latents is not None
    start = 0
    for size in chunk_sizes(request.num_latents, request.chunk):
        length = request.input_shape(size, start == 0, config)[2]
        yield clip[:, :, start : start + length]
        start += length


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError, with what would be accepted, unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known; give {' or '.join(map(repr, choices))}.")


def prepare_latent(
    latent: Tensor | None, scaling: Scaling, output: Output, chunk: int, config: WanConfig
) -> PreparedClip:
    """Check a latent [1 C T H W] or [C T H W] that is to be decoded, and make it raw.

    A latent of 16 bits becomes float32 before its scaling is undone. Warns if its statistics clearly are those of the
    other scaling. Raises ValueError for another shape, for values
    that are not finite, and for an unknown scaling or output.
    """
    _check_has(config.has_decoder, config)
    _check_choice("scaling", scaling, SCALINGS)
    _check_choice("output", output, OUTPUTS)
    _check_chunk(chunk)
    if not isinstance(latent, Tensor) or not latent.is_floating_point():
        kind = f"a tensor of {latent.dtype}" if isinstance(latent, Tensor) else type(latent).__name__
        raise ValueError(f"A latent is a tensor of floating-point numbers, not {kind}.")
    z = latent.detach()
    z = z[None] if z.dim() == 4 else z
    if z.dim() != 5 or len(z) != 1 or z.shape[1] != config.z_dim or not z.numel():
        advice = "" if z.dim() != 5 or len(z) < 2 else " Decode the clips of a batch one after the other."
        raise ValueError(
            f"A latent of shape {list(latent.shape)} cannot be decoded: this VAE takes [1, {config.z_dim}, T, H, W]."
            + advice
        )
    if not bool(z.isfinite().all()):
        raise ValueError("The latent holds values that are not finite numbers (NaN or infinity).")
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    guess = guess_scaling(z, config)
    if guess.scaling != scaling and NOT_CERTAIN not in guess.reason:
        warnings.warn(
            f"The latent is decoded as {scaling}, but looks {guess.scaling}. {guess.why}", stacklevel=CALLER
        )
    _, channels, num_latents, height, width = z.shape
    request = ClipRequest("decode", channels, num_latents, height, width, min(chunk, num_latents), output)
    return PreparedClip(request, cut(to_raw(z, config, scaling), request, config))


def prepare_video(
    video: Tensor | np.ndarray | None, scaling: Scaling, chunk: int, config: WanConfig
) -> PreparedClip:
    """Check a video that is to be encoded: uint8 [T H W 3], or floats in [-1, 1] [1 3 T H W] or [3 T H W].

    A VAE that encodes alpha takes four channels as well, and three as opaque.

    Raises ValueError for another shape, type or range, for sides that the VAE cannot encode, for a number of frames
    other than 1 + 4 k, for an unknown scaling, and for a VAE without an encoder.
    """
    _check_has(config.has_encoder, config)
    _check_choice("scaling", scaling, SCALINGS)
    _check_chunk(chunk)
    frames = as_frames(video, config.in_channels)
    if frames.is_floating_point():
        _warn_of_range(frames)
    request = _encoding_request(frames, scaling, chunk, config)
    return PreparedClip(request, cut(frames, request, config))


def as_frames(video: object, num_channels: int) -> Tensor:
    """Return a video, a tensor or an array as `prepare_video` takes it, as a tensor [1 C T H W].

    Raises ValueError for another shape, type or range.
    """
    x = video
    if isinstance(video, np.ndarray):
        try:
            x = torch.from_numpy(
                np.ascontiguousarray(video)
            )  # PyTorch takes no negative strides, as of a flipped one
        except TypeError as error:
            raise ValueError(
                f"A video of {video.dtype} cannot be encoded: give uint8 [T, H, W, 3]."
            ) from error
    if not isinstance(x, Tensor):
        raise ValueError(f"A video is a tensor or an array, not {type(video).__name__}.")
    if x.dtype == torch.uint8:
        if x.dim() != 4 or x.shape[3] not in (3, num_channels):
            raise ValueError(f"A video of uint8 has the shape [T, H, W, 3], not {list(x.shape)}.")
        frames = x.permute(3, 0, 1, 2)[None]
    else:
        frames = _check_float_video(x.detach(), num_channels)
    if frames.shape[1] < num_channels:
        opaque = 255 if frames.dtype == torch.uint8 else 1
        frames = torch.cat((frames, torch.full_like(frames[:, :1], opaque)), 1)
    return frames


def _encoding_request(frames: Tensor, scaling: Scaling, chunk: int, config: WanConfig) -> ClipRequest:
    """Return the request for frames [1 C T H W]. Raises ValueError for sides or a length that cannot be encoded."""
    _, _, num_frames, height, width = frames.shape
    factor = config.spatial_factor
    if height % factor or width % factor or not height or not width:
        raise ValueError(
            f"A video of {width}x{height} cannot be encoded: its sides must be multiples of {factor}."
        )
    num_latents = config.num_latents(num_frames)
    sizes = (config.z_dim, num_latents, height // factor, width // factor)
    return ClipRequest("encode", *sizes, min(chunk, num_latents), scaling)


def as_model_input(chunk: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a chunk of a clip to the VAE's dtype; uint8 frames [1 C T H W] become numbers in [-1, 1]."""
    if chunk.dtype != torch.uint8:
        return chunk.to(dtype)
    return from_uint8(chunk[0].permute(1, 2, 3, 0), dtype)


def _check_chunk(chunk: int) -> None:
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk={chunk!r} is impossible; give 1 or more latent frames per chunk.")


def _check_has(half: bool, config: WanConfig) -> None:
    """Raise ValueError, with what the VAE can do, unless it has the half that is needed, encoder or decoder."""
    if not half:
        raise ValueError(f"This VAE {config.lack}.")


def _check_float_video(x: Tensor, num_channels: int) -> Tensor:
    """Return floats [1 C T H W] in [-1, 1]; C is 3 or `num_channels`. Raises ValueError for anything else."""
    frames = x[None] if x.dim() == 4 else x
    sizes = [(1, 3), (1, num_channels)]
    if (
        not x.is_floating_point()
        or frames.dim() != 5
        or tuple(frames.shape[:2]) not in sizes
        or not x.numel()
    ):
        raise ValueError(
            f"A video of {x.dtype} and shape {list(x.shape)} cannot be encoded: give uint8 [T, H, W, 3], or floats "
            "in [-1, 1] of shape [1, 3, T, H, W]."
        )
    lowest, highest = (float(value) for value in frames.aminmax())
    if not (lowest >= -1.01 and highest <= 1.01):  # false for NaN, too
        raise ValueError(
            f"The video's values lie between {lowest:.4g} and {highest:.4g}; floats must be in [-1, 1] (or give uint8)."
        )
    return frames


def _warn_of_range(frames: Tensor) -> None:
    """Warn of floats in [0, 1] where -1 is black."""
    lowest, highest = (float(value) for value in frames.aminmax())
    if lowest >= 0 and highest > 0:
        warnings.warn(
            f"The video's values lie between {lowest:.4g} and {highest:.4g}, where -1 is black: if 0 is black in it, "
            "multiply by 2 and subtract 1.",
            stacklevel=CALLER + 1,
        )
