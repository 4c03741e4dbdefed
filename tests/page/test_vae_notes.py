"""What a user should know of a VAE stands on the page, before anything is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.app_runner import ROOT
from support.tiny import tiny_vae

from wanvae_app import device
from wanvae_app.jobs.service import JobService
from wanvae_app.model.vae import WanVAE
from wanvae_app.page.gallery import find_samples
from wanvae_app.page.handlers import EventHandlers
from wanvae_app.page.history import History
from wanvae_app.parallel.process_group import Group

SAMPLES = ROOT / "assets" / "samples"


def handlers_for(vae: WanVAE, folder: Path) -> EventHandlers:
    jobs = JobService(Group(0, 1, torch.device("cpu")), vae, folder / "runs")
    return EventHandlers(jobs, History(jobs), [])


def test_a_decoder_alone_is_told_and_refuses_videos(tmp_path: Path) -> None:
    config = replace(tiny_vae().config, has_encoder=False)
    vae = WanVAE(config, "decoder")
    vae.notes = ("wan.pth has no encoder: it decodes latents, and takes no video.",)
    handlers = handlers_for(vae, tmp_path)
    hint = handlers.describe(None, "decoder")
    assert "Latents: .safetensors" in hint and f"<p class='hint note'>{vae.notes[0]}</p>" in hint
    said = handlers.describe([str(SAMPLES / "Fish pond.mp4")], "decoder")
    assert said == "<p class='bad'>decoder has no encoder: it decodes latents, and takes no video.</p>"
    assert not [path for path in find_samples(SAMPLES, [config]) if path.suffix == ".mp4"]


def test_a_slow_dtype_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_cpu_has", lambda flags: flags == device.BF16_FLAGS)
    hint = handlers_for(tiny_vae(torch.float16), tmp_path).describe(None, "")
    assert "CPU is slow in fp16, by a factor of a hundred and more: --dtype bf16 is faster there." in hint
    assert "slow" not in handlers_for(tiny_vae(), tmp_path / "other").describe(None, "")
