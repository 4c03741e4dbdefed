"""The memory estimate against Linux's count of a process that codes the clip, and refusals by it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wanvae_app import device
from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.config import PRESETS
from wanvae_app.fast.choice import build_vae, choose_path
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.memory_estimate import (
    HEAP,
    AllocationCounter,
    Clip,
    CudaOperations,
    activation_bytes,
    free_bytes,
    refusal,
)
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import Downsample
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.dry_run import DryRunShard
from wanvae_app.parallel.shard import Shard

NARROW = replace(PRESETS["wan2.1"], base_dim=16, decoder_base_dim=16)
CLIP = Clip(NARROW, num_latents=8, height=32, width=32, chunk=4, dtype=torch.bfloat16)

MEASURE = """
import sys, torch
from test_memory_estimate import NARROW
from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.model.vae import WanVAE

def status(key):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(key))

phase, dtype, chunk = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3])
vae = WanVAE(NARROW).to(dtype).requires_grad_(False)

def work(height, width):
    if phase == "decode":
        return decode_chunks(vae, (torch.randn(1, 16, chunk, height, width) for _ in range(2)))
    counts = (4 * chunk - 3, 4 * chunk)
    return encode_chunks(vae, (torch.rand(1, 3, n, height * 8, width * 8) for n in counts))

for _ in work(2, 2):  # libraries load and make their threads
    pass
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew here
before = status("VmRSS")
for _ in work(32, 48):
    pass
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("phase, dtype, chunk", [("decode", "bfloat16", 1), ("encode", "bfloat16", 2)])
def test_within_15_percent_of_the_measured_peak(phase: str, dtype: str, chunk: int) -> None:
    # Gives every tensor a mapping of its own, which ends when the tensor is freed; HEAP is for the usual heap.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    here = Path(__file__).parent
    env["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent)])
    command = [sys.executable, "-c", MEASURE, phase, dtype, str(chunk)]
    measured = int(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    estimate = activation_bytes(Clip(NARROW, 2 * chunk, 32, 48, chunk, getattr(torch, dtype)), phase)
    assert 0.85 < estimate / measured < 1.15, f"estimated {estimate >> 20} MiB, measured {measured >> 20} MiB"


def test_memory_depends_on_the_chunk_and_the_ranks_and_not_on_the_length() -> None:
    def estimate(num_latents: int, chunk: int, size: int = 1, rank: int = 0) -> int:
        clip = replace(CLIP, num_latents=num_latents, chunk=chunk)
        return activation_bytes(clip, "decode", size, rank)

    assert estimate(21, 1) == estimate(201, 1)
    assert estimate(21, 4) > 1.5 * estimate(21, 1)
    assert 0.5 < estimate(21, 1, size=2, rank=1) / estimate(21, 1) < 0.65, "half, and the halo"
    assert estimate(21, 1, size=64, rank=63) == 0, "a rank without rows needs nothing"


def test_what_a_clip_of_720_rows_needs_on_a_gpu() -> None:
    pytest.importorskip("triton")  # none for this platform
    config, path = PRESETS["wan2.1"], CodePath(KernelSet.HOPPER, "for a test")
    clip = Clip(config, 21, 90, 160, 1, torch.bfloat16, torch.device("cuda", 0), path)
    with torch.device("meta"):
        weights = sum(p.nbytes for p in WanVAE(config).bfloat16().parameters())
    alone, one_of_two = (weights + activation_bytes(clip, "decode", size) for size in (1, 2))
    assert alone < 6.9 * 2**30, f"{alone / 2**30:.2f} GiB"
    assert one_of_two < 0.55 * alone, f"{one_of_two / 2**30:.2f} of {alone / 2**30:.2f} GiB"


@pytest.mark.parametrize("size", [1, 2])
@torch.no_grad()
def test_halving_a_picture_copies_only_its_edges(size: int) -> None:
    plan = Shard.plan(64, 96, size, 0)
    assert plan is not None
    x = torch.empty(1, 4, 128, 192, 16, device="meta").movedim(-1, 1)
    layer = Downsample(16, temporal=False).to("meta")
    with AllocationCounter() as counter:
        layer(x, ClipState(DryRunShard(plan)))
    assert counter.peak < 1.6 * x.nbytes, (
        "x, the result, the same without its bias, and some rows and columns"
    )


def test_a_refusal_says_what_would_fit() -> None:
    def refused(free: int | None, chunk: int = 4, size: int = 1) -> str:
        return refusal(replace(CLIP, chunk=chunk), ("decode",), size, 0, free)

    def needs(chunk: int) -> int:
        return round(HEAP * activation_bytes(replace(CLIP, chunk=chunk), "decode"))

    needed = needs(4)
    assert refused(needed) == refused(None) == refused(100 * needed) == ""
    sentence = refused(needed - 1)
    assert "rank 0 would need 0.4 GiB" in sentence and "2 latent frames per chunk would fit" in sentence
    assert refused(2**20, chunk=1).endswith("a smaller picture would fit")


def test_advice_fits_the_machine() -> None:
    gpu = replace(CLIP, chunk=1, dtype=torch.float32, device=torch.device("cuda", 0))
    needs = {size: activation_bytes(gpu, "decode", size, size // 2) for size in (1, 2, 3, 4)}

    def refused(free: int, most_ranks: int, size: int = 1, clip: Clip = gpu) -> str:
        return refusal(clip, ("decode",), size, 0, free, most_ranks=most_ranks)

    assert refused(needs[2], most_ranks=8).endswith("2 ranks would fit")
    assert refused(needs[3], most_ranks=3).endswith("3 ranks would fit"), "as many as there are GPUs"
    assert refused(needs[3], most_ranks=8).endswith("4 ranks would fit")
    for most_ranks, size in ((1, 1), (2, 2)):  # no GPU is left
        free = needs[2 * size]
        advice = refused(free, most_ranks, size).rpartition("; ")[2]
        found = re.fullmatch(r"a picture of (\d+)x(\d+) would fit", advice)
        assert found is not None, advice
        height, width = (int(number) // NARROW.output_factor for number in found.groups())
        assert not refused(free, most_ranks, size, replace(gpu, height=height, width=width))
        assert 0.7 * gpu.height * gpu.width / 2 < height * width < gpu.height * gpu.width
    cpu = replace(gpu, device=torch.device("cpu"))
    assert "ranks" not in refused(activation_bytes(cpu, "decode"), 8, clip=cpu), "they would share the memory"


def test_ranks_are_advised_up_to_the_gpus_and_cores_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(device, "num_cores", lambda: 2)
    for local_size, gpus, cores in (("1", 3, 1), ("4", 0, 0)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local_size)
        assert device.num_spare_ranks(torch.device("cuda", 0)) == gpus
        assert device.num_spare_ranks(torch.device("cpu")) == cores


def test_a_gpu_needs_no_attention_matrix_and_no_float32_copies() -> None:
    config = PRESETS["wan2.1"]
    middle, shard = WanVAE(config).to("meta", torch.bfloat16).decoder.middle, Shard.plan(60, 104, 1, 0)
    assert shard is not None
    x = torch.empty(1, 4, 60, 104, 384, dtype=torch.bfloat16, device="meta").movedim(-1, 1)
    with AllocationCounter(middle.parameters()) as counter, CudaOperations(), torch.no_grad():
        middle(x, ClipState(DryRunShard(shard)))
    past = 2 * 4 * x.nbytes // 4 * 2  # of four convolutions
    assert counter.peak < past + 8 * x.nbytes, "the matrix alone takes 8.1 times as much as x"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kernels", ["none", *KernelSet.__members__])
@pytest.mark.parametrize("phase", ["decode", "encode"])
@pytest.mark.parametrize("family", ["wan2.1", "wan2.2"])
def test_within_15_percent_of_the_peak_on_a_gpu(family: str, phase: str, kernels: str) -> None:
    config, gpu, bf16 = PRESETS[family], torch.device("cuda", 0), torch.bfloat16
    path = CodePath(None if kernels == "none" else KernelSet[kernels], "for a test")
    if path.kernels not in (None, choose_path(config, gpu, bf16).kernels):
        pytest.skip("other kernels are for this GPU")
    height, width = 480 // config.spatial_factor, 832 // config.spatial_factor
    estimate = activation_bytes(Clip(config, 7, height, width, 2, bf16, gpu, path), phase)
    with gpu:
        vae = build_vae(config, gpu, bf16, path=path).bfloat16().requires_grad_(False)
    vae.channels_last()
    device.tidy_up(gpu)
    device.reset_peak(gpu)
    before = torch.cuda.memory_allocated(gpu)
    if phase == "decode":
        for _ in decode_chunks(vae, (torch.randn(1, config.z_dim, n, height, width) for n in (1, 2, 2, 2))):
            pass
    else:
        size = [side * config.spatial_factor for side in (height, width)]
        for _ in encode_chunks(vae, (torch.rand(1, 3, n, *size) for n in (1, 8, 8, 8))):
            pass
    measured = device.peak_bytes(gpu) - before
    assert 0.85 < estimate / measured < 1.15, f"estimated {estimate >> 20} MiB, measured {measured >> 20} MiB"


def test_interleaved_phases_need_the_memory_of_both() -> None:
    phases = ("encode", "decode")

    def refused(free: int, interleaved: bool) -> str:
        return refusal(CLIP, phases, 1, 0, free, interleaved=interleaved)

    each = [activation_bytes(CLIP, phase) for phase in phases]
    both, larger = round(HEAP * sum(each)), round(HEAP * max(each))
    assert refused(both, True) == refused(larger, False) == ""
    assert refused(both - 1, True) and refused(larger - 1, False)


def test_free_memory_is_plausible() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50


def test_fewer_frames_at_once_need_less_memory() -> None:
    """By which a card of 8 GiB decodes 720x1280: 6.5 GiB with 0.24 GiB of weights."""
    config, cuda = PRESETS["wan2.1"], torch.device("cuda", 0)

    def needed(path: CodePath) -> float:
        return activation_bytes(Clip(config, 5, 90, 160, 2, torch.bfloat16, cuda, path), "decode") / 2**30

    path = CodePath(KernelSet.POINTERS, "for a test")
    assert needed(path._replace(frames_at_once=2)) < min(6.5 - 0.24, needed(path) - 1)
    assert needed(PLAIN) < 6.5 - 0.24
