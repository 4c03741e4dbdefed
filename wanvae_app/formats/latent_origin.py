"""Whether a latent was made by VAEs of another family than the one that is to decode it: such frames are garbage.

Families differ by the statistics of their latents: Wan 2.1's, Wan 2.2's, and those of the demo VAE in this repository.
"""

from __future__ import annotations

import filecmp
import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from wanvae_app.assets import DEMO_VAE, SAMPLES
from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.formats import reading_process
from wanvae_app.formats.channel_evidence import CLEAR_EVIDENCE, log_evidence

OFFICIAL = "./launch.sh --vae Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


class Misfit(NamedTuple):
    """That a latent may not fit the VAE, in a sentence that says what to do. `is_clear`: it does not fit."""

    sentence: str = ""  # empty if nothing speaks against it
    is_clear: bool = False


def find_misfit(path: Path, z: Tensor, config: WanConfig) -> Misfit:
    """Say whether the latent z [1, C, T, H, W] of a file fits a VAE, by what the file states and by its statistics.

    Only raw latents show whose they are: normalised ones have the same statistics in all families.
    """
    stated = reading_process.stored_facts(path)
    is_demo = fingerprint(config) == demo_fingerprint()
    if stated.statistics == fingerprint(config):
        return Misfit()
    if not is_demo:
        if stated.statistics == demo_fingerprint() or _is_sample(path):
            return Misfit(
                "The demo VAE made this latent, and these weights do not decode it: choose the demo VAE, "
                "or start ./launch.sh without --vae.",
                True,
            )
        if stated.statistics:
            return Misfit(
                "Other weights made this latent, and these do not decode it: choose those, or give them to --vae.",
                True,
            )
        return Misfit()
    if stated.statistics or _looks_official(z, config):
        return Misfit(
            f"This looks like a Wan model's latent, and the demo weights do not decode it: start {OFFICIAL}.",
            True,
        )
    if stated.scaling:  # this app wrote it
        return Misfit()
    return Misfit(f"The demo weights do not decode a Wan model's latents: for those, start {OFFICIAL}.")


def fingerprint(config: WanConfig) -> str:
    """A short text that VAEs have in common whose latents have the same statistics."""
    text = json.dumps([list(config.latents_mean), list(config.latents_std)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def demo_fingerprint() -> str:
    """The fingerprint of the demo VAE."""
    facts = json.loads((DEMO_VAE / "config.json").read_text())
    mean, std = tuple(facts["latents_mean"]), tuple(facts["latents_std"])
    return fingerprint(WanConfig(z_dim=len(mean), latents_mean=mean, latents_std=std))


def _looks_official(z: Tensor, config: WanConfig) -> bool:
    """Whether z has the statistics of an official VAE's raw latents, not of this one's, and not of normalised ones."""
    official = next((each for each in PRESETS.values() if each.z_dim == config.z_dim), None)
    if official is None:
        return False
    channels = config.z_dim
    others = [
        log_evidence(z, config.latents_mean, config.latents_std),
        log_evidence(z, [0.0] * channels, [1.0] * channels),
    ]
    return log_evidence(z, official.latents_mean, official.latents_std) > max(others) + CLEAR_EVIDENCE


def _is_sample(path: Path) -> bool:
    """Whether the file is one of the samples, whose latents the demo VAE made."""
    sample = SAMPLES / path.name
    return sample.is_file() and filecmp.cmp(path, sample, shallow=False)
