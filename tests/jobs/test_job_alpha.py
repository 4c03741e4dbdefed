"""Jobs whose frames have alpha, and VAEs that lack an encoder or a decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.ranked_jobs import frames_of, on_ranks, run_to_end
from support.tiny import some_latent, some_video, tiny_vae_with_alpha

from wanvae_app.config import PRESETS
from wanvae_app.jobs.job_state import Status
from wanvae_app.jobs.service import JobService
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.pixels import from_uint8, with_channels
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group


def both_kinds(jobs: JobService) -> Any:
    decoded = run_to_end(jobs, latent=some_latent(2))
    coded = run_to_end(jobs, source=some_video(5))
    assert decoded.status == coded.status == Status.FINISHED, (decoded.message, coded.message)
    assert decoded.num_ranks == 2 and decoded.video_path is not None and decoded.video_path.stat().st_size
    return frames_of(decoded), frames_of(coded), coded.latent


def test_two_ranks_equal_the_whole_picture_in_all_four_channels() -> None:
    decoded, coded, latent = on_ranks(2, both_kinds, make_vae=tiny_vae_with_alpha)
    vae = tiny_vae_with_alpha(torch.float64)
    frames = vae.to_uint8(vae.decode(some_latent(2).double(), ClipState())).numpy()
    assert decoded.shape == (5, 32, 24, 4) and np.array_equal(decoded, frames)
    assert len(np.unique(frames[..., 3])) > 50, "alpha is no constant"
    video = from_uint8(torch.from_numpy(some_video(5).read(0, 5)), torch.float64)
    raw = vae.encode(with_channels(video, 4), ClipState())
    assert torch.allclose(latent, raw, atol=1e-9, rtol=0)
    assert np.array_equal(coded, vae.to_uint8(vae.decode(raw, ClipState())).numpy())


@pytest.mark.parametrize("half", ["has_encoder", "has_decoder"])
def test_what_a_half_cannot_do_is_said_before_a_run(tmp_path: Path, half: str) -> None:
    config = replace(PRESETS["wan2.1"], base_dim=4, decoder_base_dim=4, **{half: False})
    vae = WanVAE(config, "half").requires_grad_(False)
    jobs = JobService(Group(0, 1, torch.device("cpu")), vae, tmp_path / "runs")
    try:
        if half == "has_encoder":
            with pytest.raises(
                ValueError, match="^half has no encoder: it decodes latents, and takes no video.$"
            ):
                jobs.new_run(source=some_video(5))
            run = run_to_end(jobs, latent=some_latent(2))
            assert run.status == Status.FINISHED and len(run.frames) == 5
        else:
            for options in ({"source": some_video(5)}, {"latent": some_latent(2)}):
                with pytest.raises(
                    ValueError, match="^half has no decoder: it encodes videos, and shows no frames.$"
                ):
                    jobs.new_run(**options)
    finally:
        jobs.close()
