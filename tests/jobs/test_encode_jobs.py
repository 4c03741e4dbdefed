"""Jobs that only encode, on real ranks: the latent of one rank, no frames, and no files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.ranked_jobs import on_ranks, wait_until_ended
from support.tiny import some_video, tiny_vae

from wanvae_app.codec import encode_chunks
from wanvae_app.jobs.job import Job, JobKind, Phase
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.unread_input import InputPlan, ReadInput
from wanvae_app.model.pixels import from_uint8


class Video:
    """Thirteen frames of 32x24: an UnreadInput."""

    name = "clip.mp4"

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        return InputPlan(LatentShape(16, 4, 4, 3), 13 * 32 * 24 * 3, 4 * 16 * 4 * 4 * 3, 0)

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        return ReadInput(None, some_video(13), 16.0)


def encode(jobs: JobService) -> torch.Tensor:
    run = jobs.new_unread_run(Video(), JobKind.ENCODE, chunk=2, parallel=True, owner="")
    run.wants_files = False
    jobs.submit(run)
    wait_until_ended(run)
    assert run.status == "finished" and run.message == "Finished.", run.message
    assert run.done == {"encode": 4} and run.encode_seconds > 0
    assert len(run.frames) == run.num_frames == 0 and run.frames.finished
    assert run.video_path is None and run.latent_path is None and not list(run.folder.glob("*"))
    assert run.latent is not None
    return run.latent


@pytest.mark.parametrize("size", [1, 3])
def test_encoding_equals_one_rank(size: int) -> None:
    vae = tiny_vae(torch.float64)
    video = from_uint8(torch.from_numpy(some_video(13).read(0, 13)), vae.dtype)
    (expected,) = encode_chunks(vae, [video])
    assert (on_ranks(size, encode) - expected).abs().max() < 1e-12


def test_only_encoding_is_asked_of_the_ranks() -> None:
    job = Job("id", JobKind.ENCODE, LatentShape(16, 4, 4, 3), 2, True)
    assert job.phases == (Phase.ENCODE,) and {step.phase for step in job.steps()} == {Phase.ENCODE}
