"""The demo VAE that the app brings: it loads and reconstructs pictures, and the sample latents are its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from wanvae_app.formats.checkpoint import load_vae
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.pixels import from_uint8
from wanvae_app.model.vae import WanVAE

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DEMO, SAMPLES = ASSETS / "demo_vae", ASSETS / "samples"


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return load_vae(str(DEMO), torch.float32, torch.device("cpu"))


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def test_config_fits_weights(vae: WanVAE) -> None:
    config = json.loads((DEMO / "config.json").read_text())
    assert (vae.config.base_dim, vae.config.z_dim) == (config["base_dim"], config["z_dim"]) == (16, 16)
    assert vae.config.latents_mean == tuple(config["latents_mean"])
    assert vae.config.latents_std == tuple(config["latents_std"])
    path = DEMO / "diffusion_pytorch_model.safetensors"
    assert path.stat().st_size <= 12e6
    with safe_open(path, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118 (no mapping)


@torch.no_grad()
@pytest.mark.parametrize(("name", "least"), [("Balloons over the hills", 24.0), ("Fish pond", 24.0)])
def test_round_trip(vae: WanVAE, name: str, least: float) -> None:
    frames = torch.from_numpy(iio.imread(SAMPLES / f"{name}.mp4", plugin="FFMPEG")[:9])
    clip = from_uint8(frames, torch.float32)
    assert psnr(vae.decode(vae.encode(clip, ClipState()), ClipState()), clip) > least


@torch.no_grad()
def test_latents_are_of_these_weights(vae: WanVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing and encoding the smallest sample again gives its file: make_samples.py ran after the last training."""
    monkeypatch.setattr(sys, "path", [str(SAMPLES), str(DEMO), *sys.path])
    import make_samples

    name, frames = make_samples.LATENTS[0][0], make_samples.draw_scene(*make_samples.LATENTS[0][1:])
    with safe_open(SAMPLES / f"{name}.safetensors", "pt") as file:
        latent = file.get_tensor("latent").float()
    assert 0.3 < float(latent.std()) < 3
    assert (latent - make_samples.encode(vae, frames)).abs().max() < 0.03
    statistics = vae.config.latents_mean, vae.config.latents_std
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in statistics)
    assert psnr(vae.decode(latent * std + mean, ClipState()), frames[None] * 2 - 1) > 24


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.safetensors")) + sorted(SAMPLES.glob("*.mp4")))
def test_samples_are_small(path: Path) -> None:
    assert path.stat().st_size < 1e6
