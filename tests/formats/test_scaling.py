"""Raw or normalised: never certain and wrong, over simulated clips of every contrast, colour, size and likeness."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.simulated_latents import CHANNELS, COLOURS, CONTRASTS, SIZES, Scene, simulate

from wanvae_app.assets import DEMO_VAE, SAMPLES
from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.formats.channel_evidence import log_evidence
from wanvae_app.formats.latents import NOT_CERTAIN, guess_scaling, to_raw
from wanvae_app.page.upload import choose_scaling, describe_upload

WAN = PRESETS["wan2.1"]
LEAST_DECIDED = {"wan2.1": 0.75, "wan2.2": 0.8}  # of all scenes; crops of 12 values are a fifth of them
SCENES = [Scene(*facts) for facts in itertools.product(CONTRASTS, COLOURS, CHANNELS, SIZES)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are faster on one thread, by far where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_certain_answer_is_wrong(preset: str) -> None:
    """Wrong answers must say that they are not certain, and most answers must be certain."""
    config, random = PRESETS[preset], np.random.default_rng(1)
    wrong, num_certain, num_right = [], 0, 0
    for scene in SCENES:
        z = torch.from_numpy(simulate(scene, config, random))
        for truth, latent in (("normalised", z), ("raw", to_raw(z, config, "normalised"))):
            guess = guess_scaling(latent, config)
            num_certain += guess.is_certain
            num_right += guess.scaling == truth
            if guess.is_certain and guess.scaling != truth:
                wrong.append((truth, scene, guess.why))
    share, right = num_certain / (2 * len(SCENES)), num_right / (2 * len(SCENES))
    print(f"{preset}: certain in {share:.1%} of {2 * len(SCENES)}, right in {right:.1%}")
    assert not wrong
    assert share > LEAST_DECIDED[preset] and right > 0.97


@pytest.mark.parametrize("contrast", [0.05, 0.15])
def test_a_flat_raw_clip_is_known_by_its_means(contrast: float) -> None:
    random = np.random.default_rng(2)
    num_certain = 0
    for colours in COLOURS * 4:
        z = torch.from_numpy(simulate(Scene(contrast, colours, size=(1, 12, 10)), WAN, random))
        guess = guess_scaling(to_raw(z, WAN, "normalised"), WAN)
        assert guess.scaling == "raw", (colours, guess.why)
        num_certain += guess.is_certain
    assert num_certain >= 11, "of 16"


def test_one_frame_of_a_clip() -> None:
    """A clip's first frame alone is judged as the clip is."""
    random = np.random.default_rng(3)
    for contrast in (0.4, 0.9):
        z = torch.from_numpy(simulate(Scene(contrast, "rgb", "mixed", (21, 12, 10), 0.95), WAN, random))
        for latent, scaling in ((z, "normalised"), (to_raw(z, WAN, "normalised"), "raw")):
            for part in (latent, latent[:, :, :1]):
                assert guess_scaling(part, WAN).scaling == scaling


def test_the_demo_vaes_own_latents_are_not_judged_wrongly() -> None:
    """Its statistics are nearly those of normalised latents, so it is right to be uncertain."""
    facts = json.loads((DEMO_VAE / "config.json").read_text())
    config = WanConfig(latents_mean=tuple(facts["latents_mean"]), latents_std=tuple(facts["latents_std"]))
    for path in SAMPLES.glob("*.safetensors"):
        z = load_file(path)["latent"]
        for scaling, latent in (("normalised", z), ("raw", to_raw(z, config, "normalised"))):
            guess = guess_scaling(latent, config)
            assert guess.scaling == scaling or not guess.is_certain


def test_comfyuis_mark_is_a_prior_and_no_proof(tmp_path: Path) -> None:
    """Its own latents are raw, but WanVideoWrapper's normalised ones are saved by the same node."""
    random, path = np.random.default_rng(5), tmp_path / "z.latent"
    mark = {"latent_format_version_0": torch.tensor([])}
    z = torch.from_numpy(simulate(Scene(0.25, "none"), WAN, random)).float()
    save_file({"latent_tensor": z, **mark}, path)
    assert choose_scaling(path, z, WAN, "Auto").scaling == "normalised"
    raw = to_raw(z, WAN, "normalised")
    steps = (z + (raw - z) * part for part in np.linspace(0, 1, 200))
    doubtful = next(between for between in steps if -2 < _nats_for_raw(between) < 0)
    save_file({"latent_tensor": doubtful}, path)
    assert choose_scaling(path, doubtful, WAN, "Auto").scaling == "normalised"
    save_file({"latent_tensor": doubtful, **mark}, path)
    assert choose_scaling(path, doubtful, WAN, "Auto").scaling == "raw"


def test_doubt_is_said_first(tmp_path: Path) -> None:
    z = torch.tensor(WAN.latents_mean).view(1, 16, 1, 1, 1) / 2
    save_file({"latent": z}, tmp_path / "z.safetensors")
    assert NOT_CERTAIN in describe_upload(tmp_path / "z.safetensors", WAN).text


def _nats_for_raw(z: torch.Tensor) -> float:
    normalised = log_evidence(z, [0.0] * 16, [1.0] * 16)
    return log_evidence(z, WAN.latents_mean, WAN.latents_std) - normalised
