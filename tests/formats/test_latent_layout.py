"""Frames before channels: told by the shape, or by which neighbours are alike, and said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.formats.latent_layout import find_layout
from wanvae_app.formats.latents import read_clip, to_raw
from wanvae_app.page.upload import describe_upload

WAN = PRESETS["wan2.1"]


def moving(num_latents: int, config: WanConfig = WAN, likeness: float = 0.5, seed: int = 0) -> Tensor:
    """A normalised latent of a clip whose neighbouring frames correlate by `likeness`, which is little for a clip."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, config.z_dim, num_latents, 6, 8, generator=random)
    frames = [noise[:, :, 0]]
    for t in range(1, num_latents):
        frames.append(likeness * frames[-1] + (1 - likeness**2) ** 0.5 * noise[:, :, t])
    return torch.stack(frames, 2)


@pytest.mark.parametrize("has_batch", [True, False])
@pytest.mark.parametrize("num_latents", [2, 21])
def test_a_shape_that_tells(tmp_path: Path, num_latents: int, has_batch: bool) -> None:
    z = moving(num_latents)
    stored = z.transpose(1, 2).contiguous()
    torch.save(stored if has_batch else stored[0], tmp_path / "z.pt")
    found, order = read_clip(tmp_path / "z.pt", WAN)
    assert torch.equal(found, z) and found.is_contiguous()
    assert order == "Read as frames before channels, [T, C, H, W], as its shape says."
    assert order in describe_upload(tmp_path / "z.pt", WAN).text


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scaling", ["raw", "normalised"])
@pytest.mark.parametrize("likeness", [0.4, 0.95])
def test_as_many_frames_as_channels(tmp_path: Path, preset: str, scaling: str, likeness: float) -> None:
    config = PRESETS[preset]
    for seed in range(3):
        z = moving(config.z_dim, config, likeness, seed)
        z = z if scaling == "normalised" else to_raw(z, config, "normalised")
        torch.save(z, tmp_path / "usual.pt")
        found, order = read_clip(tmp_path / "usual.pt", config)
        assert torch.equal(found, z) and order == ""
        torch.save(z[0].transpose(0, 1).contiguous(), tmp_path / "frames first.pt")
        found, order = read_clip(tmp_path / "frames first.pt", config)
        assert torch.equal(found, z) and "because neighbours along the first are alike" in order


def test_noise_is_read_as_usual_and_the_doubt_is_said(tmp_path: Path) -> None:
    z = moving(16, likeness=0)
    torch.save(z, tmp_path / "z.pt")
    found, order = read_clip(tmp_path / "z.pt", WAN)
    assert torch.equal(found, z) and "though its values fit both" in order


def test_another_familys_latent_is_not_read_as_frames() -> None:
    assert find_layout((1, 48, 16, 4, 5), WAN) is None
    several = find_layout((2, 3, 16, 4, 5), WAN)
    assert several is not None and several.is_frames_first and several.num_clips == 2
    picture = find_layout((1, 16, 4, 5), WAN)
    assert picture is not None and not picture.is_frames_first
