"""A latent of another family than the VAE's is told, and what to type; in red only where that is certain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wanvae_app.assets import DEMO_VAE, SAMPLES
from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.formats.latent_origin import Misfit, find_misfit
from wanvae_app.formats.latents import read_latent, to_raw, write_latent

WAN = PRESETS["wan2.1"]


@pytest.fixture(scope="module")
def demo() -> WanConfig:
    facts = json.loads((DEMO_VAE / "config.json").read_text())
    return WanConfig(latents_mean=tuple(facts["latents_mean"]), latents_std=tuple(facts["latents_std"]))


def normalised(seed: int) -> Tensor:
    """What a clip's latent is like: each channel has a mean and a spread of its own."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(1, 16, 3, 8, 8, generator=generator)
    means = torch.randn(16, generator=generator) * 0.3
    spreads = 0.6 + 0.6 * torch.rand(16, generator=generator)
    return z * spreads.view(1, -1, 1, 1, 1) + means.view(1, -1, 1, 1, 1)


def misfit(z: Tensor, path: Path, config: WanConfig) -> Misfit:
    save_file({"latent": z}, path)
    return find_misfit(path, read_latent(path, config), config)


@pytest.mark.parametrize("seed", range(6))
def test_a_wan_models_latent_and_the_demo_weights(tmp_path: Path, demo: WanConfig, seed: int) -> None:
    path, z = tmp_path / "z.safetensors", normalised(seed)
    raw = misfit(to_raw(z, WAN, "normalised"), path, demo)
    assert raw.is_clear and "./launch.sh --vae Wan-AI/" in raw.sentence
    for either in (z, to_raw(z, demo, "normalised")):  # could be the demo VAE's own
        found = misfit(either, path, demo)
        assert not found.is_clear and "./launch.sh --vae Wan-AI/" in found.sentence
    for any_latent in (z, to_raw(z, WAN, "normalised")):
        assert misfit(any_latent, path, WAN) == Misfit()


def test_what_this_app_wrote_is_known(tmp_path: Path, demo: WanConfig) -> None:
    path, z = tmp_path / "z.safetensors", normalised(0)
    for maker, reader, words in (
        (demo, demo, ""),
        (WAN, WAN, ""),
        (WAN, demo, "./launch.sh --vae"),
        (demo, WAN, "The demo VAE made this latent"),
    ):
        write_latent(z, path, maker)
        found = find_misfit(path, z, reader)
        assert found.is_clear == bool(words) and words in found.sentence


def test_the_samples_are_the_demo_vaes(demo: WanConfig) -> None:
    path = SAMPLES / "Rolling marbles.safetensors"
    z = read_latent(path, demo)
    assert find_misfit(path, z, demo) == Misfit()
    assert "start ./launch.sh without --vae." in find_misfit(path, z, WAN).sentence
