"""A tiny VAE with random weights, and latents and videos for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from wanvae_app.config import PRESETS
from wanvae_app.fast.choice import build_vae
from wanvae_app.formats.checkpoint import external_state_dict
from wanvae_app.frame_log import FrameLog
from wanvae_app.model.vae import WanVAE


def tiny_vae(dtype: torch.dtype = torch.float32) -> WanVAE:
    """A Wan 2.1 VAE of width 4, the same at every call."""
    torch.manual_seed(7)
    vae = WanVAE(replace(PRESETS["wan2.1"], base_dim=4, decoder_base_dim=4))
    return vae.to(dtype).requires_grad_(False).eval()


def tiny_vae_with_alpha(dtype: torch.dtype = torch.float32) -> WanVAE:
    """A Wan 2.1 VAE of width 4 whose pixels have four channels, the same at every call."""
    torch.manual_seed(8)
    config = replace(PRESETS["wan2.1"], base_dim=4, decoder_base_dim=4, in_channels=4, out_channels=4)
    return WanVAE(config).to(dtype).requires_grad_(False).eval()


def tiny_checkpoint(path: Path, width: int = 4, preset: str = "wan2.1") -> Path:
    """Write random weights of a VAE of this width, the same for the same width."""
    torch.manual_seed(width)
    vae = WanVAE(replace(PRESETS[preset], base_dim=width, decoder_base_dim=width)).requires_grad_(False)
    save_file({name: t.contiguous() for name, t in external_state_dict(vae, "official").items()}, path)
    return path


def moved(vae: WanVAE, device: torch.device | str, dtype: torch.dtype) -> WanVAE:
    """Return a VAE with the same weights on another device, on the path that is fastest there."""
    copy = build_vae(vae.config, torch.device(device), dtype)
    copy.load_state_dict(vae.state_dict())
    return copy.to(device, dtype).requires_grad_(False)


def some_latent(num_latents: int, height: int = 4, width: int = 3) -> Tensor:
    """A raw latent of noise [1 16 T H W], the same for the same shape."""
    generator = torch.Generator().manual_seed(num_latents)
    return torch.randn(1, 16, num_latents, height, width, generator=generator)


def some_video(num_frames: int, height: int = 32, width: int = 24) -> FrameLog:
    """A finished video of noise, the same for the same shape."""
    log = FrameLog(height, width)
    log.append(np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8))
    log.finish()
    return log
