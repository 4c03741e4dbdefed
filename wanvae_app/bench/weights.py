"""The VAE that is measured: a checkpoint's, or one of random weights."""

from __future__ import annotations

import torch

from wanvae_app.config import PRESETS
from wanvae_app.fast.choice import build_vae
from wanvae_app.formats.checkpoint import load_vae
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.model.vae import WanVAE


def make_vae(source: str, dtype: torch.dtype, device: torch.device, path: CodePath | None = None) -> WanVAE:
    """Return the VAE of a checkpoint, or one of PRESETS with random weights, the same on every rank and path.

    `path` is as `build_vae` takes it.
    """
    if source not in PRESETS:
        return load_vae(source, dtype, device, path)
    torch.manual_seed(1)
    vae = build_vae(PRESETS[source], device, dtype, source, path)
    return vae.to(device, dtype).requires_grad_(False).channels_last()
