"""The clips that are coded: a file's latent, or random ones with a video's statistics.

What a GPU draws depends on the data, and at its limit it lowers its clock. White noise changes more bits from number to
number than a video does, so times of noise are not those that people have.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wanvae_app.bench.case import Case
from wanvae_app.config import WanConfig
from wanvae_app.formats.latents import guess_scaling, read_latent, stored_scaling, to_raw

SEED = 0  # the same clip on every rank
SLOWER = 4  # frames in which a clip changes as much as over one pixel; a choice, not a measurement


def make_latent(case: Case, config: WanConfig) -> Tensor:
    """Return the raw latent [1, C, T, H, W] that a case decodes, in float32 on the CPU.

    It is that of the case's file, mirrored or cut to the case's size. Without a file it is smooth noise with the
    family's mean and standard deviation of each channel.
    """
    shape = case.latent_shape(config)
    if case.latent is not None:
        return mirrored(_read(case.latent, config), shape[2:])
    return to_raw(smooth_noise(shape[1:])[None], config, "normalised")


def make_video(case: Case, num_channels: int = 3) -> Tensor:
    """Return the frames [T, H, W, C] that a case encodes, uint8 on the CPU: smooth noise around grey."""
    noise = smooth_noise((num_channels, case.num_frames, case.height, case.width))
    return (noise * 48 + 128).clamp(0, 255).round().byte().movedim(0, 3).contiguous()


def smooth_noise(shape: tuple[int, int, int, int]) -> Tensor:
    """Return noise [C, T, H, W] of mean 0 and standard deviation 1 in each channel, smooth in space and time.

    It is a sum of noise at halved resolutions with equal variances, as natural images have it in each octave (Field,
    Relations between the statistics of natural images and the response properties of cortical cells, 1987).
    """
    channels, *size = shape
    generator = torch.Generator().manual_seed(SEED)
    total, scale = torch.zeros(1, *shape), 1
    while scale <= max(size[1:]):
        coarse = [max(1, -(-size[0] // (SLOWER * scale))), *(max(1, -(-n // scale)) for n in size[1:])]
        octave = torch.randn(1, channels, *coarse, generator=generator)
        total += F.interpolate(octave, size, mode="trilinear")
        scale *= 2
    flat = total[0].flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    deviation = centred.std(1, correction=0, keepdim=True).clamp_min(1e-6)
    return (centred / deviation).view(shape)


def mirrored(z: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Return z [1, C, T, H, W] cut to `size`, or continued by its mirror images."""
    for dim, (have, want) in enumerate(zip(z.shape[2:], size, strict=True), 2):
        index = torch.arange(want) % (2 * have)
        z = z.index_select(dim, torch.where(index < have, index, 2 * have - 1 - index))
    return z


@lru_cache(maxsize=1)
def _read(path: Path, config: WanConfig) -> Tensor:
    """Read a file's latent, raw. Raises ValueError with one sentence where the file holds none of this VAE."""
    z = read_latent(path, config)
    return to_raw(z, config, stored_scaling(path) or guess_scaling(z, config).scaling)
