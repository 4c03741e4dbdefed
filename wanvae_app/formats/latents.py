"""Latent files: read in every common format, checked before their values are read, and written.

Raw latents are what the encoder returns. Normalised ones, which diffusers pipelines hand out, have the mean of the
VAE's family subtracted and are divided by its standard deviation, per channel.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.formats import reading_process
from wanvae_app.formats.channel_surprise import CLEAR_EVIDENCE, channel_surprise
from wanvae_app.formats.latent_origin import fingerprint
from wanvae_app.formats.untrusted_text import first_line

UNCLEAR_NOTE = " The two are hard to tell apart here: choose the other if the colours look wrong."
NOT_CERTAIN = " (not certain)"


class ScalingGuess(NamedTuple):
    """A scaling, "normalised" or "raw", a short sentence about it, and more sentences with the numbers behind it."""

    scaling: str
    reason: str
    why: str = ""


def read_latent(path: Path, config: WanConfig) -> Tensor:
    """Read the latent of one clip: float32 [1, C, T, H, W] on the CPU, finite, in the scaling of the file.

    The format is told by the file's content, not its name. A process of its own reads it, with limits on time and
    memory, and nothing in the file is executed. Raises ValueError, with one sentence, for a damaged file and for one
    that holds no latent of this VAE, or several; OSError if the file or the process is missing.
    """
    return read_clip(path, config)[0]


def read_clip(path: Path, config: WanConfig) -> tuple[Tensor, str]:
    """Read what read_latent does, and say in a sentence in which order the dimensions were, if that needs a word."""
    z, order = reading_process.read_latent(path, config.z_dim)
    return z, f"Read as {order}." if order else ""


def latent_shape(path: Path, config: WanConfig) -> tuple[int, ...]:
    """The shape [1, C, T, H, W] of a file's latent, by its header alone. Raises as read_latent does."""
    return tuple(reading_process.latent_shape(path, config.z_dim))


def stored_scaling(path: Path) -> str | None:
    """The scaling that a safetensors file states, as `write_latent` does; None if it states none."""
    return reading_process.stored_facts(path).scaling


def guess_scaling(z: Tensor, config: WanConfig) -> ScalingGuess:
    """Guess whether z [1, C, T, H, W] is normalised or raw, from the statistics of its channels.

    Compares two hypotheses by their log-likelihoods, summed over the channels; see `channel_surprise`.
    """
    mean, std = (
        torch.tensor(values, dtype=torch.float64) for values in (config.latents_mean, config.latents_std)
    )
    flat = z[0].flatten(1).double()  # C, T H W
    m, s = flat.mean(1), flat.std(1, correction=0).clamp_min(1e-6)

    raw_minus_normalised = channel_surprise(z, config.latents_mean, config.latents_std) - channel_surprise(
        z, [0.0] * len(mean), [1.0] * len(mean)
    )
    scaling = "raw" if raw_minus_normalised < -CLEAR_EVIDENCE else "normalised"
    typical = float(std.median())
    why = (
        f"Its channels' standard deviations are around {float(s.median()):.2f} and their means "
        f"within {float(m.abs().max()):.2f} of 0, where this VAE's normalised latents have about 0.9 and 0.8, "
        f"raw ones about {0.9 * typical:.2f} and {float(mean.abs().max()):.2f}."
    )
    if abs(raw_minus_normalised) < CLEAR_EVIDENCE:
        return ScalingGuess(scaling, f"Probably {scaling}{NOT_CERTAIN}.", why + UNCLEAR_NOTE)
    return ScalingGuess(scaling, f"Probably {scaling}.", why)


def to_raw(z: Tensor, config: WanConfig, scaling: str) -> Tensor:
    """The latent [1, C, T, H, W] as the decoder takes it: z * std + mean if it is normalised, z itself if it is raw."""
    if scaling == "raw":
        return z
    mean, std = _statistics(z, config)
    return z * std + mean


def to_normalised(z: Tensor, config: WanConfig) -> Tensor:
    """The raw latent [1, C, T, H, W] normalised: (z - mean) / std, per channel."""
    mean, std = _statistics(z, config)
    return (z - mean) / std


def write_latent(z: Tensor, path: Path, config: WanConfig, scaling: str = "normalised") -> None:
    """Write a raw latent [1, C, T, H, W], normalised or "raw", as the float32 tensor "latent" of a safetensors file.

    The file's metadata states the scaling, and for which statistics. Raises OSError if the file cannot be written.
    """
    tensor = z.detach().float().cpu()
    tensor = (tensor if scaling == "raw" else to_normalised(tensor, config)).contiguous()
    try:
        save_file(
            {"latent": tensor},
            path,
            {"scaling": scaling, "format": "pt", "statistics": fingerprint(config)},
        )
    except SafetensorError as error:
        raise OSError(first_line(error)) from error


def _statistics(z: Tensor, config: WanConfig) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, [C, 1, 1, 1], in z's dtype and on its device."""
    mean, std = (
        z.new_tensor(values).view(-1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    return mean, std
