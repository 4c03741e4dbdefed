"""The latents' mean and deviation as diffusers states them beside a VAE's weights, in config.json."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from wanvae_app.config import WanConfig
from wanvae_app.formats.untrusted_text import first_line

MAX_CONFIG = 2**20  # bytes of a config.json


def with_statistics(config: WanConfig, path: Path) -> WanConfig:
    """The configuration with the latents' mean and std from a diffusers config.json, if there is one at `path`."""
    if not path.is_file():
        return config
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f"it has more than {MAX_CONFIG} bytes")
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {first_line(error)}.") from error
    if not isinstance(known, dict):
        raise ValueError(f"{path} is not the configuration of a VAE: it holds no names.")
    mean, std = known.get("latents_mean"), known.get("latents_std")
    if not mean or not std:
        return config
    for values, what, above in ((mean, "means", -math.inf), (std, "standard deviations", 0.0)):
        if not isinstance(values, list) or len(values) != config.z_dim:
            given = len(values) if isinstance(values, list) else "no list of"
            raise ValueError(
                f"{path} has {given} latent {what} for weights with {config.z_dim} latent channels."
            )
        if not all(type(value) in (int, float) and above < value < 1e6 for value in values):
            raise ValueError(f"{path} has latent {what} that are not possible numbers.")
    return replace(config, latents_mean=tuple(mean), latents_std=tuple(std))
