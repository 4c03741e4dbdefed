"""Exceptions in jobs on real ranks, without the page: each is told, and the next job works."""

from __future__ import annotations

import shutil
from typing import Any

from support.rank_faults import FAULTS, Fault, install_faults
from support.ranked_jobs import frames_of, on_ranks, run_to_end
from support.tiny import some_latent, some_video
from torch import Tensor

from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.jobs.service import JobService
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group


def fail_in_every_way(jobs: JobService) -> list[tuple[Fault, str, str, float]]:
    """Fault, status, message and seconds of a run with each fault; another run follows each."""
    outcomes = []
    for num_latents, fault in FAULTS.items():
        if fault.rank >= jobs.group.size:
            continue
        source = some_video(4 * num_latents - 3) if fault.place == "gather" else None
        latent = some_latent(num_latents) if source is None else None
        run = run_to_end(jobs, latent=latent, source=source, chunk=num_latents // 4)
        outcomes.append((fault, run.status, run.message, run.finished - run.started))
        run = run_to_end(jobs, latent=some_latent(2))
        assert run.status == "finished", f"after {fault}: {run.message}"
    return outcomes


def test_a_failure_names_rank_and_reason_and_the_next_run_works() -> None:
    for fault, status, message, seconds in on_ranks(3, fail_in_every_way, install_faults):
        assert status == "failed" and seconds < 5
        assert f"Rank {fault.rank} failed" in message and f"rigged {fault.place}" in message, message
        assert "coding chunk" in message or fault.place == "append"


def decode_with_bad_weights(jobs: JobService) -> list[tuple[str, str, str]]:
    """Status, message and warning of a run whose weights rank 1 has lost, and of a sound one."""
    runs = [run_to_end(jobs, latent=some_latent(num), chunk=1) for num in (3, 2)]
    return [(run.status, run.message, run.warning) for run in runs]


def spoil_rank_1(group: Group) -> None:
    """Make rank 1 add infinity to what it decodes of clips of three latent frames, from the second chunk on."""

    def decode(self: WanVAE, z: Tensor, state: ClipState, original: Any = WanVAE.decode) -> Tensor:
        bias, first = self.decoder.head.conv.bias, state.first
        before = bias.clone()
        if group.rank == 1 and not first and due:
            bias[0] = float("inf")
        out = original(self, z, state)
        bias.copy_(before)
        return out

    def begin(self: RankTask, *args: Any, original: Any = RankTask.__init__) -> None:
        original(self, *args)
        due[:] = [True] * (self.job.shape.num_latents == 3)

    due: list[bool] = []
    WanVAE.decode = decode  # type: ignore[method-assign]
    RankTask.__init__ = begin  # type: ignore[method-assign]


def test_numbers_that_are_not_finite_are_told() -> None:
    spoilt, sound = on_ranks(2, decode_with_bad_weights, spoil_rank_1)
    warning = (
        "The decoder made numbers that are not finite, first in chunk 2 on rank 1; these pixels are black"
    )
    assert spoilt == ("finished", f"Finished. {warning}.", warning)
    assert sound == ("finished", "Finished.", "")


def decode_without_a_folder(jobs: JobService) -> tuple[str, str, int]:
    shutil.rmtree(jobs.folder)
    jobs.folder.write_text("in the way")
    run = run_to_end(jobs, latent=some_latent(2))
    jobs.folder.unlink()
    return run.status, run.message, len(frames_of(run))


def test_without_a_folder_frames_are_kept_in_memory() -> None:
    status, message, num_frames = on_ranks(1, decode_without_a_folder)
    assert status == "finished" and num_frames == 5
    assert "kept in memory" in message and "could not be written" in message


def give_rank_1_another_path(group: Group) -> None:
    if group.rank == 1:
        WanVAE.path = CodePath(KernelSet.POINTERS, "this rank chose by itself")


def run_twice(jobs: JobService) -> list[tuple[str, str, int]]:
    runs = [run_to_end(jobs, latent=some_latent(2)) for _ in range(2)]
    return [(run.status, run.message, len(run.frames)) for run in runs]


def test_ranks_of_unequal_paths_make_no_frames() -> None:
    reason = (
        "The ranks cannot work together: rank 1 has fp64 and fast (Ampere and later), and rank 0 fp64 and plain "
        "PyTorch."
    )
    assert on_ranks(2, run_twice, give_rank_1_another_path) == [("failed", reason, 0)] * 2
