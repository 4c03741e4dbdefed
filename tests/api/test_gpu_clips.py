"""Clips of `load_vae` on GPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wanvae_app

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import torch, wanvae_app
vae = wanvae_app.load_vae(dtype="bf16")
latent = torch.randn(1, 16, 5, 30, 40, generator=torch.Generator().manual_seed(1))
frames = vae.decode(latent.to(vae.device), scaling="normalised")
video = vae.encode(frames, scaling="raw")
if vae.rank == 0:
    torch.save((frames.cpu(), video.cpu()), "result.pt")
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_decodes_what_a_cpu_decodes() -> None:
    on_cpu, on_gpu = (wanvae_app.load_vae(dtype=d, device=n) for d, n in (("fp32", "cpu"), ("bf16", "cuda")))
    latent = torch.randn(1, 16, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    expected = on_cpu.decode(latent, scaling="normalised").float()
    for given in (latent, latent.cuda(), latent.cuda().bfloat16()):
        frames = on_gpu.decode(given, scaling="normalised")
        assert frames.device.type == "cuda" and frames.dtype == torch.uint8
        assert (frames.cpu().float() - expected).abs().mean() < 3
    again = torch.cat(list(on_gpu.decode_stream(latent, scaling="normalised")))
    assert torch.equal(again, on_gpu.decode(latent, scaling="normalised"))
    on_gpu.decode(latent, scaling="normalised", output="float").add_(1)
    kept = [part.clone() for part in on_gpu.decode_stream(latent, scaling="raw", output="float")]
    parts = list(on_gpu.decode_stream(latent, scaling="raw", output="float"))
    assert all(
        torch.equal(a, b) for a, b in zip(kept, parts, strict=True)
    )  # no chunk overwrites an earlier one


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_decode_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    results = []
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "script.py"]
        subprocess.run(["env", f"PYTHONPATH={ROOT}", *command], cwd=tmp_path, timeout=300, check=True)
        results.append(torch.load(tmp_path / "result.pt"))
    (one_frames, one_latent), (two_frames, two_latent) = results
    assert (one_frames.float() - two_frames.float()).abs().mean() < 1
    assert (one_latent - two_latent).norm() / one_latent.norm() < 0.03
