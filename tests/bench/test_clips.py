"""The benchmark's clips and weights: a video's statistics, or a file's latent; what a GPU draws."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from support.tiny import tiny_vae

from wanvae_app.bench import power
from wanvae_app.bench.case import Case
from wanvae_app.bench.clips import make_latent, make_video, smooth_noise
from wanvae_app.bench.measure import clip_coder
from wanvae_app.bench.weights import SCALE, make_vae
from wanvae_app.codec import decode_chunks
from wanvae_app.config import PRESETS
from wanvae_app.formats.latents import to_normalised, write_latent
from wanvae_app.parallel.shard import Shard

CONFIG = PRESETS["wan2.1"]


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_random_clips_are_smooth_and_have_the_familys_statistics() -> None:
    z = make_latent(Case("decode", 240, 416, 33), CONFIG)
    assert z.shape == (1, 16, 9, 30, 52)
    flat = z[0].flatten(1)
    assert torch.allclose(flat.mean(1), torch.tensor(CONFIG.latents_mean), atol=1e-4)
    assert torch.allclose(flat.std(1, correction=0), torch.tensor(CONFIG.latents_std), rtol=1e-4)
    normalised = to_normalised(z, CONFIG)[0]
    for a, b in ((normalised[:, 1:], normalised[:, :-1]), (normalised[..., 1:], normalised[..., :-1])):
        assert 0.6 < correlation(a, b) < 0.99, "neighbours are alike, and not equal"
    assert correlation(normalised[0], normalised[1]) < 0.5
    assert torch.equal(z, make_latent(Case("decode", 240, 416, 33), CONFIG)), "the same on every rank"
    frames = make_video(Case("encode", 48, 40, 9)).double()
    assert frames.shape == (9, 48, 40, 3) and 100 < frames.mean() < 156 and frames.std() > 30
    assert correlation(frames[:, 1:], frames[:, :-1]) > 0.6


def test_a_single_number_is_not_divided_by_zero() -> None:
    assert torch.isfinite(smooth_noise((2, 1, 1, 1))).all()


def test_a_files_latent_is_decoded(tmp_path: Path) -> None:
    """Cut to the case's size, or continued by its mirror images, and raw."""
    vae, path = tiny_vae(), tmp_path / "clip.safetensors"
    config = vae.config
    z = torch.randn(1, config.z_dim, 2, 5, 6, generator=torch.Generator().manual_seed(1))
    write_latent(z, path, config)
    scale = config.spatial_factor
    small = Case("decode", 4 * scale, 6 * scale, 1, path)
    assert torch.allclose(make_latent(small, config), z[:, :, :1, :4], atol=1e-5)
    large = make_latent(Case("decode", 12 * scale, 6 * scale, 9, path), config)
    assert torch.allclose(large[:, :, 2], large[:, :, 1]) and torch.allclose(
        large[:, :, 0, :5], z[:, :, 0], atol=1e-5
    )
    assert torch.equal(large[..., 5:10, :], large[..., :5, :].flip(3))
    assert torch.equal(large[..., 10:, :], large[..., :2, :])
    case = Case("decode", 5 * scale, 6 * scale, config.num_frames(2), path)
    shard = Shard.plan(5, 6, 1, 0)
    assert shard is not None
    decoded = torch.cat(list(clip_coder(vae, case, 1, shard)()))
    expected = torch.cat([vae.to_uint8(x) for x in decode_chunks(vae, make_latent(case, config).split(1, 2))])
    assert torch.equal(decoded, expected)


def test_random_weights_are_as_large_as_trained_ones() -> None:
    weight = make_vae("wan2.1", torch.float32, torch.device("cpu")).decoder.conv_in.weight
    assert float(weight.std()) * weight[0].numel() ** 0.5 == pytest.approx(SCALE, rel=0.02)


def test_what_a_gpu_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """By NVML of the card with the device's UUID, in watts and megahertz; nothing on CPUs."""
    asked = []

    def by_uuid(uuid: str) -> str:
        asked.append(uuid)
        return "card"

    library = ModuleType("pynvml")
    vars(library).update(
        NVML_CLOCK_SM=1,
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetPowerUsage=lambda card: 699_000,
        nvmlDeviceGetClockInfo=lambda card, clock: 1665,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))
    with power.power_log(torch.device("cuda", 0)) as log:
        pass
    assert (log.mean_watts, log.mean_megahertz, asked) == (699, 1665, ["GPU-1-2"])
    with power.power_log(torch.device("cpu")) as log:
        pass
    assert log.mean_watts is None
