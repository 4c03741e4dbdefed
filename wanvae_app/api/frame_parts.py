"""A video that is encoded while its frames come: parts of any length from an iterator, joined to the VAE's chunks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from wanvae_app.api.clip_request import (
    PreparedClip,
    Scaling,
    as_frames,
    prepare_video,
)
from wanvae_app.config import WanConfig

Part = Tensor | np.ndarray
CONSUMER = 8  # from a warning here up to the program that iterates over the stream


def prepare_frames(parts: Iterable[Part], scaling: Scaling, chunk: int, config: WanConfig) -> PreparedClip:
    """Prepare the encoding of frames as they come. Takes the first part at once, the others chunk by chunk.

    A part is one frame, uint8 [H W 3] or floats in [-1, 1] [3 H W], or several, as `as_frames` takes them. Raises
    ValueError if there is no first part, and for one that cannot be encoded; for a later one, when it comes.
    """
    remaining = iter(parts)
    for part in remaining:
        first = as_frames(_with_time(part), config.in_channels)
        frame = first[:, :, :1]
        if frame.dtype == torch.uint8:
            frame = frame[0].permute(1, 2, 3, 0)
        request = replace(prepare_video(frame, scaling, chunk, config).request, num_latents=None, chunk=chunk)
        later = (as_frames(_with_time(part), config.in_channels) for part in remaining)
        checked = chain([first], (_like(part, first) for part in later))
        return PreparedClip(request, _chunks(checked, chunk, config.temporal_factor))
    raise ValueError("The video has no frames.")


def _chunks(parts: Iterator[Tensor], chunk: int, factor: int) -> Iterator[Tensor]:
    """Yield frames [1 3 T H W]: the first alone, then `factor` for each of `chunk` latent frames.

    Warns of frames at the end that do not fill a latent frame: they are left out.
    """
    wanted, pending, num_pending, num_taken = 1, list[Tensor](), 0, 0
    for part in parts:
        pending.append(part)
        num_pending += part.shape[2]
        while num_pending >= wanted:
            whole = torch.cat(pending, 2) if len(pending) > 1 else pending[0]
            yield whole[:, :, :wanted]
            num_taken += wanted
            num_pending -= wanted
            pending = [whole[:, :, wanted:]] if num_pending else []
            wanted = factor * chunk
    whole_latents = num_pending // factor * factor
    if whole_latents:
        yield torch.cat(pending, 2)[:, :, :whole_latents]
    if rest := num_pending - whole_latents:
        warnings.warn(
            f"The last {rest} of {num_taken + num_pending} frames are not encoded: a video has 1 + {factor} k frames.",
            stacklevel=CONSUMER,
        )


def _with_time(part: Part) -> Part:
    """Give a single frame its dimension of time."""
    if not isinstance(part, (Tensor, np.ndarray)) or part.ndim != 3:
        return part
    if isinstance(part, np.ndarray) or part.dtype == torch.uint8:
        return part[None]
    return part[:, None]


def _like(frames: Tensor, first: Tensor) -> Tensor:
    """Return the frames. Raises ValueError if they have another size or type than the first ones."""
    if (*frames.shape[:2], *frames.shape[3:]) != (
        *first.shape[:2],
        *first.shape[3:],
    ) or frames.dtype != first.dtype:
        sizes = [f"{x.shape[4]}x{x.shape[3]} of {x.dtype}" for x in (first, frames)]
        raise ValueError(
            f"The video's frames change from {sizes[0]} to {sizes[1]}: all must be of one size and type."
        )
    return frames
