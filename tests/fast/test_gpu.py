"""The same equalities on GPUs, over NCCL where there are several; skipped where there are none.

python -m pytest tests/fast/test_gpu.py      # needs torch, safetensors, pytest and imageio-ffmpeg
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.distance import distance
from support.grouped import run_group
from support.tiny import moved, some_latent, some_video, tiny_vae
from torch import Tensor

from wanvae_app.bench.self_test import check_paths
from wanvae_app.bench.weights import make_vae as make_bench_vae
from wanvae_app.codec import chunk_sizes, decode_chunks, encode_chunks
from wanvae_app.config import PRESETS
from wanvae_app.fast.choice import usable_kernels
from wanvae_app.jobs.follower import follow
from wanvae_app.jobs.job import Step
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.jobs.service import JobService
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.model.pixels import to_uint8
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import WHOLE, Shard

NUM_GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(NUM_GPUS == 0, reason="no CUDA GPU here")
SIZES = [n for n in (1, 2, 3, 4, 8) if n <= NUM_GPUS]
FAMILIES = ["wan2.1", "wan2.2"]


def make_vae(family: str, width: int = 8) -> WanVAE:
    torch.manual_seed(3)
    return WanVAE(replace(PRESETS[family], base_dim=width, decoder_base_dim=width)).requires_grad_(False)


def clips(vae: WanVAE, num_latents: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    config = vae.config
    scale = config.spatial_factor
    x = (
        torch.rand(1, 3, config.num_frames(num_latents), height * scale, width * scale, dtype=torch.float64)
        * 2
        - 1
    )
    return torch.randn(1, config.z_dim, num_latents, height, width, dtype=torch.float64), x


def both(
    vae: WanVAE, z: Tensor, x: Tensor, chunk: int = 1, shard: Shard = WHOLE, sizes: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Decoded and encoded, `chunk` latent frames at a time or in these `sizes`, in float64 on the CPU."""
    config, sizes = vae.config, sizes or chunk_sizes(z.shape[2], chunk)
    counts = [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]
    frames = torch.cat(list(decode_chunks(vae, z.split(sizes, 2), shard)), 2)
    latents = torch.cat(list(encode_chunks(vae, x.split(counts, 2), shard)), 2)
    return frames.double().cpu(), latents.double().cpu()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 0.04), (torch.float16, 0.01)],
)
def test_a_gpu_equals_the_cpu(family: str, dtype: torch.dtype, tolerance: float) -> None:
    vae = make_vae(family)
    z, x = clips(vae, 3, 5, 7)
    exact = both(vae.double(), z, x, 3)
    Group.join("cuda")  # fp32 means fp32 from here on
    for chunk in (1, 2, 3):
        for found, expected in zip(both(moved(vae, "cuda", dtype), z, x, chunk), exact, strict=True):
            assert distance(found, expected) < tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_every_set_of_kernels_passes_the_self_test(family: str) -> None:
    """At full width, each set that this card runs strays little further from float32 than the plain path does."""
    device = Group.join("cuda").device  # fp32 means fp32 from here on
    usable = usable_kernels(device)
    if not usable.kernels:
        pytest.skip(usable.reason)
    make = partial(bench_vae, family, device)
    checks = check_paths(make, torch.bfloat16, list(usable.kernels))
    assert len(checks) == 1 + len(usable.kernels) and not any(check.problem for check in checks), checks


def bench_vae(family: str, device: torch.device, dtype: torch.dtype, path: CodePath) -> WanVAE:
    return make_bench_vae(family, dtype, device, path)


def sharded(group: Group, family: str, dtype: torch.dtype, link: bool = True) -> list:
    assert link or group.peer_memory is None
    vae = moved(make_vae(family), group.device, dtype)
    results = []
    for height, width, chunk in ((7, 5, 1), (5, 9, 2), (1, 3, 1)):
        z, x = clips(vae, 3, height, width)
        shard = Shard.plan(height, width, group.size, group.rank, group.data, group.peer_memory)
        if shard is not None:
            mine = both(vae, shard.part(z), shard.part(x, vae.config.spatial_factor), chunk, shard)
            results.append((shard.dim, *mine, *(both(vae, z, x, chunk) if group.rank == 0 else ())))
        else:
            results.append(None)
    return results


@pytest.mark.parametrize("size", SIZES[1:] or [2])
@pytest.mark.parametrize("family", FAMILIES)
def test_many_gpus_equal_one(size: int, family: str) -> None:
    if size > NUM_GPUS:
        pytest.skip(f"{NUM_GPUS} GPU here")
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 0.02)):
        found = run_group(size, sharded, family, dtype, timeout=300, device="cuda")
        assert_equal_to_one_rank(found, tolerance)


def assert_equal_to_one_rank(found: list[list], tolerance: float) -> None:
    """Slabs of several ranks, as `sharded` returns them, are those of rank 0 alone."""
    for parts in zip(*found, strict=True):
        dim, *_ = parts[0]
        for index in (1, 2):
            whole = torch.cat([part[index] for part in parts if part is not None], dim)
            assert distance(whole, parts[0][index + 2]) < tolerance


@pytest.mark.skipif(NUM_GPUS < 2, reason="one GPU here")
@pytest.mark.parametrize("family", FAMILIES)
def test_many_gpus_equal_one_without_a_link(family: str) -> None:
    """As on machines without NVLink or peer access: rows and tokens travel as messages."""
    forced_off = {"WANVAE_PEER_MEMORY": "0"}
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 0.02)):
        found = run_group(
            2, sharded, family, dtype, False, timeout=300, device="cuda", environment=forced_off
        )
        assert_equal_to_one_rank(found, tolerance)


def chunkings_and_shards(group: Group, family: str) -> list[Tensor] | None:
    """Decoded and encoded by all ranks together; by rank 0 alone the same way, and in chunks of two latent frames."""
    width = 96 if family == "wan2.1" else 128  # then four frames of 256 channels are made together
    vae = moved(make_vae(family, width), group.device, torch.bfloat16)
    z, x = clips(vae, 4, 13, 22)
    shard = Shard.plan(13, 22, group.size, group.rank, group.data, group.peer_memory)
    assert shard is not None
    if group.peer_memory is not None:
        group.peer_memory.reserve_tokens(vae.config, (1, 13, 22), vae.dtype)
    for _ in range(3):  # from the second time on from recordings
        mine = both(vae, shard.part(z), shard.part(x, vae.config.spatial_factor), 1, shard)
    return (
        [shard.dim, *mine, *both(vae, z, x), *both(vae, z, x, sizes=[2, 2])]
        if group.rank == 0
        else [0, *mine]
    )


@pytest.mark.parametrize("size", SIZES[1:] or [2])
@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_differ_no_more_than_chunkings_do(size: int, family: str) -> None:
    if size > NUM_GPUS:
        pytest.skip(f"{NUM_GPUS} GPU here")
    parts = run_group(size, chunkings_and_shards, family, timeout=300, device="cuda")
    dim = parts[0][0]
    for index in (1, 2):
        together = torch.cat([part[index] for part in parts], dim)
        alone, in_twos = parts[0][index + 2], parts[0][index + 4]
        assert distance(together, alone) <= distance(in_twos, alone) < 0.03


def streamed(group: Group) -> list[np.ndarray] | None:
    vae = tiny_vae(torch.float64).to(group.device)
    if group.rank > 0:
        follow(group, vae)
        return None
    jobs = JobService(group, vae)
    results = []
    try:
        for parallel in (True, False):
            for given in ({"latent": some_latent(5).double()}, {"source": some_video(9)}):
                run = jobs.new_run(parallel=parallel, **given)
                jobs.submit(run)
                while not run.ended:
                    run.wait(1)
                assert run.status == "finished", run.message
                results.append(run.frames.read(0, len(run.frames)))
    finally:
        jobs.close()
    return results


@pytest.mark.parametrize("size", SIZES or [1])
def test_a_streamed_job(size: int) -> None:
    together, there_and_back, alone, back_alone = run_group(size, streamed, timeout=300, device="cuda")[0]
    expected = torch.cat(
        [to_uint8(f) for f in decode_chunks(tiny_vae(torch.float64), [some_latent(5)])]
    ).numpy()
    for found in (together, alone):
        assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1
    assert np.array_equal(there_and_back, back_alone)


def failing(group: Group, fault: str) -> list[tuple[str, str, int]] | None:
    """Three runs, of which the second fails on the last rank, in the middle of its third chunk."""

    def run_step(self: RankTask, step: Step, original: Any = RankTask.run_step) -> Any:
        mine = (self.job.shape[1], step.chunk, group.rank) == (5, 2, group.size - 1)
        if mine and fault == "memory":  # somebody else has taken it all
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1e-6)
        if mine and fault == "rows":
            self.shard.exchange_rows = lambda *_: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        try:
            return original(self, step)
        finally:
            if mine and fault == "memory":
                torch.cuda.set_per_process_memory_fraction(1.0)

    RankTask.run_step = run_step  # type: ignore[method-assign]
    vae = tiny_vae(torch.float64).to(group.device)
    if group.rank > 0:
        follow(group, vae)
        return None
    jobs = JobService(group, vae)
    outcomes = []
    try:
        for num_latents in (3, 5, 3):
            run = jobs.new_run(latent=some_latent(num_latents, 40, 64).double())
            jobs.submit(run)
            while not run.ended:
                run.wait(1)
            outcomes.append((run.status, run.message, len(run.frames)))
    finally:
        jobs.close()
    return outcomes


@pytest.mark.parametrize("size, fault", [(n, "memory") for n in SIZES] + [(n, "rows") for n in SIZES[1:]])
def test_a_failure_is_told_and_the_next_run_works(size: int, fault: str) -> None:
    before, failed, after = run_group(size, failing, fault, timeout=120, device="cuda")[0]
    assert before == after == ("finished", "Finished.", 9)
    reason = "out of memory" if fault == "memory" else "ZeroDivisionError"
    assert failed[0] == "failed" and failed[2] <= 9
    assert failed[1].startswith(f"Rank {size - 1} failed decoding chunk 3: ") and reason in failed[1], failed
