"""Latent files: read in every common format, checked before their values are read, and written.

Raw latents are what the encoder returns. Normalised ones, which diffusers pipelines hand out, have the mean of the
VAE's family subtracted and are divided by its standard deviation, per channel.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.formats import reading_process
from wanvae_app.formats.channel_evidence import CLEAR_EVIDENCE, log_evidence
from wanvae_app.formats.latent_file import COMFYUI_MARK, NO_CHOICE, ClipChoice, ClipLabels, StoredFacts
from wanvae_app.formats.latent_layout import DOUBTFUL
from wanvae_app.formats.latent_origin import fingerprint
from wanvae_app.formats.untrusted_text import first_line

UNCLEAR_NOTE = " The two are hard to tell apart here: choose the other if the colours look wrong."
NOT_CERTAIN = " (not certain)"


class LatentFormat(NamedTuple):
    """How a latent is saved: its scaling, and whether in ComfyUI's format or as the tensor "latent"."""

    scaling: str  # "normalised" or "raw"
    is_comfyui: bool = False

    @property
    def suffix(self) -> str:
        """The file's suffix, which ComfyUI's LoadLatent asks for."""
        return ".latent" if self.is_comfyui else ".safetensors"


NORMALISED_FORMAT = LatentFormat("normalised")
# ComfyUI's own nodes take raw latents, those of WanVideoWrapper normalised ones.
LATENT_FORMATS = {
    "Normalised": NORMALISED_FORMAT,
    "Raw": LatentFormat("raw"),
    "ComfyUI raw": LatentFormat("raw", True),
    "ComfyUI normalised": LatentFormat("normalised", True),
}


class ScalingGuess(NamedTuple):
    """A scaling, "normalised" or "raw", a short sentence about it, and more sentences with the numbers behind it."""

    scaling: str
    reason: str
    why: str = ""

    @property
    def is_certain(self) -> bool:
        """Whether the values leave no doubt, or were not asked."""
        return not self.reason.endswith(f"{NOT_CERTAIN}.")


class ReadClip(NamedTuple):
    """A latent, float32 [1, C, T, H, W], and in a sentence how its dimensions were read, if that needs a word."""

    values: Tensor
    order: str

    @property
    def is_order_certain(self) -> bool:
        """Whether the shape or the values tell frames from channels, or a person did."""
        return DOUBTFUL not in self.order


def read_latent(path: Path, config: WanConfig) -> Tensor:
    """Read the latent of one clip: float32 [1, C, T, H, W] on the CPU, finite, in the scaling of the file.

    The format is told by the file's content, not its name. A process of its own reads it, with limits on time and
    memory, and nothing in the file is executed. Raises ValueError, with one sentence, for a damaged file and for one
    that holds no latent of this VAE, or several; OSError if the file or the process is missing.
    """
    return read_clip(path, config).values


def read_clip(path: Path, config: WanConfig, choice: ClipChoice = NO_CHOICE) -> ReadClip:
    """Read what read_latent does, or another latent of the file, and say in which order its dimensions were."""
    z, order = reading_process.read_latent(path, config.z_dim, choice)
    return ReadClip(z, f"Read as {order}." if order else "")


def latent_shape(path: Path, config: WanConfig, choice: ClipChoice = NO_CHOICE) -> tuple[int, ...]:
    """The shape [1, C, T, H, W] of a file's latent, by its header alone. Raises as read_latent does."""
    return tuple(reading_process.latent_shape(path, config.z_dim, choice))


def clip_labels(path: Path, config: WanConfig, order: str = "") -> ClipLabels:
    """The latents of a file, by its header alone. Raises as read_latent does, but not for several."""
    return reading_process.clip_labels(path, config.z_dim, order)


def stored_scaling(path: Path) -> str | None:
    """The scaling that a safetensors file states, as `write_latent` does; None if it states none."""
    return stored_facts(path).scaling


def stored_facts(path: Path) -> StoredFacts:
    """What a safetensors file states of its latent."""
    return reading_process.stored_facts(path)


def guess_scaling(z: Tensor, config: WanConfig, raw_prior: float = 0.0) -> ScalingGuess:
    """Guess whether z [1, C, T, H, W] is normalised or raw, from the means and spreads of its channels.

    Compares two hypotheses by their log-likelihoods; see `channel_evidence`. `raw_prior` is what speaks for raw before
    the values are looked at, in nats.
    """
    channels = config.z_dim
    normalised = log_evidence(z, [0.0] * channels, [1.0] * channels)
    for_raw = raw_prior + log_evidence(z, config.latents_mean, config.latents_std) - normalised
    scaling = "raw" if for_raw > 0 else "normalised"
    odds = f"{math.exp(min(abs(for_raw), 20.0)):,.0f} to 1"
    why = (
        f"The means and the standard deviations of its channels, their overall contrast left open, speak for {scaling} "
        f"by {'more than ' if abs(for_raw) > 20 else ''}{odds}."
    )
    if abs(for_raw) < CLEAR_EVIDENCE:
        return ScalingGuess(scaling, f"Probably {scaling}{NOT_CERTAIN}.", why + UNCLEAR_NOTE)
    return ScalingGuess(scaling, f"By its values {scaling}.", why)


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


def write_latent(
    z: Tensor, path: Path, config: WanConfig, latent_format: LatentFormat = NORMALISED_FORMAT
) -> None:
    """Write a raw latent [1, C, T, H, W] as a float32 tensor of a safetensors file, by default normalised.

    The file's metadata states the scaling, for which statistics, and in a sentence what was done. Raises OSError if the
    file cannot be written.
    """
    raw, is_raw = z.detach().float().cpu(), latent_format.scaling == "raw"
    tensor = (raw if is_raw else to_normalised(raw, config)).contiguous()
    tensors = {"latent": tensor}
    if latent_format.is_comfyui:
        tensors = {"latent_tensor": tensor, COMFYUI_MARK: torch.tensor([])}
    done = "as the encoder gives it" if is_raw else "(raw - latents_mean) / latents_std, per channel"
    metadata = {
        "scaling": latent_format.scaling,
        "format": "pt",
        "statistics": fingerprint(config),
        "description": f"Mean of the Wan VAE's latent, [1, C, T, H, W], {latent_format.scaling}: {done}.",
        "latents_mean": json.dumps(config.latents_mean),
        "latents_std": json.dumps(config.latents_std),
    }
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(first_line(error)) from error


def load_saved(path: Path, config: WanConfig) -> Tensor:
    """The raw latent [1, C, T, H, W] of a file that this app wrote, normalised. Raises OSError if the file fails."""
    try:
        z = load_file(path)["latent"]
    except SafetensorError as error:
        raise OSError(first_line(error)) from error
    return to_raw(z, config, "normalised")


def convert_latent(source: Path, path: Path, config: WanConfig, latent_format: LatentFormat) -> None:
    """Write a latent that this app wrote, normalised, in another format. Raises OSError if either file fails."""
    write_latent(load_saved(source, config), path, config, latent_format)


def _statistics(z: Tensor, config: WanConfig) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, [C, 1, 1, 1], in z's dtype and on its device."""
    mean, std = (
        z.new_tensor(values).view(-1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    return mean, std
