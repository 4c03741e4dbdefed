"""What is refused before a chunk is coded: input that the VAE cannot take, and jobs that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.ranked_jobs import frames_of, on_ranks, run_to_end
from support.tiny import some_latent, some_video, tiny_vae

from wanvae_app.jobs import worker
from wanvae_app.jobs.service import JobService
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.memory_estimate import Clip, activation_bytes
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"latent": torch.zeros(1, 4, 2, 4, 4)}, "16"),
        ({"latent": torch.zeros(2, 16, 2, 4, 4)}, r"\[2, 16, 2, 4, 4\]"),
        ({"latent": torch.zeros(1, 16, 0, 4, 4)}, "cannot be decoded"),
        ({"latent": torch.full((1, 16, 1, 2, 2), torch.nan)}, "NaN"),
        ({"latent": torch.zeros(1, 16, 1, 2, 2), "chunk": 0}, "1 or more"),
        ({"source": some_video(4)}, "1 \\+ 4"),
        ({"source": some_video(5, 30, 32)}, "multiples of 8"),
    ],
)
def test_input_that_the_vae_cannot_take_is_refused(
    arguments: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    with pytest.raises(ValueError, match=sentence):
        jobs.new_run(**arguments)


def leave_rank_1_one_byte_short(group: Group) -> None:
    """Let rank 1 have one byte less than three latent frames per chunk need, and rank 0 no limit."""
    config = tiny_vae().config
    needed = activation_bytes(Clip(config, 7, 6, 4, 3, torch.float64), "decode", 2, 1)
    worker.free_bytes = lambda device: needed - 1 if group.rank == 1 else None  # type: ignore[assignment]


def decode_with_chunks_of_3_and_1(jobs: JobService) -> list[tuple[str, str, int, int]]:
    outcomes = []
    for chunk in (3, 1):
        run = run_to_end(jobs, latent=some_latent(7, 6, 4), chunk=chunk)
        outcomes.append((run.status, run.message, len(run.frames), len(run.activity)))
    return outcomes


def test_one_rank_without_memory_refuses_for_all() -> None:
    refused, smaller = on_ranks(2, decode_with_chunks_of_3_and_1, leave_rank_1_one_byte_short)
    assert refused[0] == "failed" and refused[2:] == (0, 0), "no chunk was coded"
    assert refused[1].startswith("Rank 1 would need 0.0 GiB for this and has 0.0 GiB free; ")
    assert refused[1].endswith("; 1 latent frame per chunk would fit.")
    assert smaller[0] == "finished" and smaller[2] == 25


def leave_rank_1_room_for_the_plain_path(group: Group) -> None:
    """Let the VAE have a fast path, for which rank 1 has too little memory, though enough for the plain one."""
    WanVAE.path = CodePath(KernelSet.POINTERS, "for a test")

    def refuses(clip: Clip, *args: Any, **options: Any) -> str:
        return "rank 1 would need more" if clip.path != PLAIN and group.rank == 1 else ""

    worker.refusal = refuses  # type: ignore[assignment]


def leave_rank_1_room_for_two_frames(group: Group) -> None:
    """The same, with enough memory for a fast path that takes two frames at a time."""
    WanVAE.path = CodePath(KernelSet.POINTERS, "for a test")

    def refuses(clip: Clip, *args: Any, **options: Any) -> str:
        assert clip.path is not None
        return "rank 1 would need more" if clip.path.frames_at_once == 4 and group.rank == 1 else ""

    worker.refusal = refuses  # type: ignore[assignment]


def decode_once(jobs: JobService) -> tuple[str, str, np.ndarray]:
    run = run_to_end(jobs, latent=some_latent(3, 6, 4))
    return run.status, run.warning, frames_of(run)


@pytest.mark.parametrize(
    ("prepare", "clause"),
    [
        (leave_rank_1_room_for_the_plain_path, "plain PyTorch coded this run"),
        (
            leave_rank_1_room_for_two_frames,
            "its largest layers took two frames at a time, which is slower",
        ),
        (None, ""),
    ],
)
def test_a_job_too_large_for_the_fast_path_takes_a_smaller_one(
    prepare: Callable[[Group], None] | None, clause: str
) -> None:
    status, warning, frames = on_ranks(2, decode_once, prepare)
    assert status == "finished" and len(frames) == 9
    reason = "The path fast (Ampere and later) needs more memory than is free, so "
    assert warning == (f"{reason}{clause}" if clause else "")
