"""Several VAEs on GPUs: what one of them leaves in memory when it is unloaded; skipped where there is no GPU.

python -m pytest tests/fast/test_vaes_on_gpus.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.grouped import run_group
from support.ranked_jobs import frames_of, run_to_end
from support.tiny import some_latent, tiny_checkpoint

from wanvae_app.codec import decode_chunks
from wanvae_app.jobs import vae_loading
from wanvae_app.jobs.follower import follow
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.vae_cache import VaeCache, weight_bytes
from wanvae_app.jobs.vae_loading import open_vaes
from wanvae_app.parallel.process_group import Group

NUM_GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(NUM_GPUS == 0, reason="no CUDA GPU here")
WIDTHS = {"full": 32, "light": 16}
MIB = 2**20


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    return {
        name: str(tiny_checkpoint(tmp_path / f"{name}.safetensors", width)) for name, width in WIDTHS.items()
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_unloaded_vae_leaves_no_memory(sources: dict[str, str], dtype: torch.dtype) -> None:
    device = torch.device("cuda", 0)
    vaes = VaeCache.open(sources, dtype, device)

    def decode(name: str) -> None:
        vaes.load(name)
        vae = vaes.use(name)
        for _ in range(2):  # the second clip replays the first one's recordings
            with torch.inference_mode():
                parts = some_latent(5, 40, 64).split([1, 2, 2], 2)
                assert sum(x.shape[2] for x in decode_chunks(vae, parts)) == 17
        torch.cuda.synchronize()

    decode("light")  # libraries allocate their workspaces
    vaes.unload("light")
    before = torch.cuda.memory_allocated(device)
    reserved = torch.cuda.memory_reserved(device)
    decode("full")
    assert torch.cuda.memory_allocated(device) >= before + weight_bytes(vaes["full"])
    vaes.unload("full")
    assert vaes["full"].device.type == "meta"
    assert torch.cuda.memory_allocated(device) <= before + MIB
    assert torch.cuda.memory_reserved(device) <= reserved + 32 * MIB


def by_turns(group: Group, sources: dict[str, str]) -> tuple[list[np.ndarray], list[str]]:
    """Frames of runs by turns, where there is room for the weights of one VAE; and what is loaded at the end."""
    vaes = open_vaes(group, sources, torch.bfloat16)

    def free(device: torch.device) -> int:
        return weight_bytes(vaes["full"]) - sum(weight_bytes(vaes[name]) for name in vaes.idle(""))

    vae_loading.free_bytes = free  # type: ignore[assignment]
    if group.rank > 0:
        follow(group, vaes)
        return [], vaes.idle("")
    jobs = JobService(group, vaes)
    frames = []
    try:
        for name in ("full", "light", "full"):
            run = run_to_end(jobs, timeout=120, latent=some_latent(5, 40, 64), vae=name)
            assert run.status == "finished", run.message
            frames.append(frames_of(run))
        return frames, vaes.idle("")
    finally:
        jobs.close()


@pytest.mark.parametrize("size", [n for n in (1, 2) if n <= NUM_GPUS] or [1])
def test_runs_by_turns_on_all_gpus(size: int, sources: dict[str, str]) -> None:
    found = run_group(size, by_turns, sources, timeout=300, device="cuda")
    (first, other, again), _ = found[0]
    assert np.array_equal(first, again), "loaded anew, it decodes the same"
    assert not np.array_equal(first, other)
    assert [loaded for _, loaded in found] == [["full"]] * size, "the other one made room each time"
