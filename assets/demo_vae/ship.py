"""Write a trained VAE in diffusers' format: weights in bf16, and a config.json with its latents' statistics."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wanvae_app.formats.checkpoint import external_state_dict
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE


@torch.no_grad()
def statistics(vae: WanVAE, clips: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of the latents of clips [B, 3, T, H, W]."""
    z = torch.cat([vae.encode(clip[None], ClipState()) for clip in clips])
    mean, std = z.mean((0, 2, 3, 4)), z.std((0, 2, 3, 4))
    return [round(float(v), 4) for v in mean], [round(float(v), 4) for v in std]


def write(vae: WanVAE, clips: Tensor, folder: Path) -> str:
    """Write both files into `folder`; returns a line that describes them.

    The statistics are those of the clips [B, 3, T, H, W] in [-1, 1]. Rounds the VAE's own weights to bf16.
    """
    tensors = {
        k: v.detach().to(torch.bfloat16).contiguous()
        for k, v in external_state_dict(vae, "diffusers").items()
    }
    rounded = {k: v.to(torch.bfloat16).float() for k, v in vae.state_dict().items()}
    vae.load_state_dict(rounded)
    mean, std = statistics(vae, clips)
    config = {
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": "0.35.0",
        "base_dim": vae.config.base_dim,
        "z_dim": vae.config.z_dim,
        "dim_mult": list(vae.config.dim_mult),
        "num_res_blocks": vae.config.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": list(vae.config.temporal_downsample),
        "dropout": 0.0,
        "latents_mean": mean,
        "latents_std": std,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file(tensors, path.with_suffix(".new"), metadata={"format": "pt"})
    path.with_suffix(".new").chmod(0o644)
    path.with_suffix(".new").replace(path)
    return f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, latents' deviation {min(std)} to {max(std)}"
