"""Frames before channels: told by the shape, or by which neighbours are alike, and said."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from support.simulated_latents import CHANNELS, COLOURS, Scene, simulate
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.formats.latent_file import ClipChoice
from wanvae_app.formats.latent_layout import CHANNELS_FIRST, DOUBTFUL, FRAMES_FIRST, as_clip, find_layout
from wanvae_app.formats.latents import clip_labels, read_clip, to_raw
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


@pytest.mark.parametrize("channels", CHANNELS)
def test_simulated_clips_of_as_many_frames_as_channels(channels: str) -> None:
    """Frames that correlate by 0.7 are told from channels, whatever the channels have in common."""
    random = np.random.default_rng(6)
    for contrast, colours, scaling in product((0.1, 0.9), COLOURS, ("normalised", "raw")):
        z = simulate(Scene(contrast, colours, channels, (16, 6, 8), 0.7), WAN, random)
        z = torch.from_numpy(
            z if scaling == "normalised" else to_raw(torch.from_numpy(z), WAN, "normalised").numpy()
        )
        layout = find_layout(tuple(z.shape), WAN)
        assert layout is not None
        for stored in (z, z.transpose(1, 2)):
            found, _ = as_clip(stored, layout)
            assert torch.equal(found, z), (contrast, colours, scaling)


def test_frames_that_have_nothing_in_common_are_not_exchanged() -> None:
    """A slide show is read as usual, perhaps with doubt; only its exchanged order may be read with doubt, too."""
    random = np.random.default_rng(7)
    for colours, channels in product(COLOURS, CHANNELS):
        z = torch.from_numpy(simulate(Scene(0.9, colours, channels, (16, 6, 8), 0.0), WAN, random))
        layout = find_layout(tuple(z.shape), WAN)
        assert layout is not None
        assert torch.equal(as_clip(z, layout)[0], z)
        found, order = as_clip(z.transpose(1, 2), layout)
        assert torch.equal(found, z) or order == DOUBTFUL


@pytest.mark.parametrize("shape", [(3, 16, 5, 4, 6), (3, 5, 16, 4, 6), (3, 16, 16, 4, 6), (3, 1, 16, 4, 6)])
def test_batches_in_either_order(tmp_path: Path, shape: tuple[int, ...]) -> None:
    clips = [moving(shape[2] if shape[1] == 16 else shape[1], seed=seed) for seed in range(3)]
    clips = [z[..., :4, :6].contiguous() for z in clips]
    stored = torch.cat(clips)
    torch.save(stored if shape[1] == 16 else stored.transpose(1, 2).contiguous(), tmp_path / "z.pt")
    labels, others = clip_labels(tmp_path / "z.pt", WAN)
    assert labels == ["tensor[0]", "tensor[1]", "tensor[2]"] and not others
    for label, z in zip(labels, clips, strict=True):
        assert torch.equal(read_clip(tmp_path / "z.pt", WAN, ClipChoice(label)).values, z)


def test_an_order_that_is_chosen(tmp_path: Path) -> None:
    z = moving(16, likeness=0)
    torch.save(z, tmp_path / "z.pt")
    for order, expected in ((CHANNELS_FIRST, z), (FRAMES_FIRST, z.transpose(1, 2))):
        found = read_clip(tmp_path / "z.pt", WAN, ClipChoice(order=order))
        assert torch.equal(found.values, expected) and found.order.endswith("as you chose.")
        assert found.is_order_certain
    long = moving(48)
    torch.save(long.transpose(1, 2), tmp_path / "long.pt")  # refused unless somebody says so
    assert torch.equal(read_clip(tmp_path / "long.pt", WAN, ClipChoice(order=FRAMES_FIRST)).values, long)


def test_another_familys_latent_is_not_read_as_frames() -> None:
    assert find_layout((1, 48, 16, 4, 5), WAN) is None
    several = find_layout((2, 3, 16, 4, 5), WAN)
    assert several is not None and several.is_frames_first and several.num_clips == 2
    picture = find_layout((1, 16, 4, 5), WAN)
    assert picture is not None and not picture.is_frames_first
