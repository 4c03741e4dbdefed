"""The VAE that is measured: a checkpoint's, or one of random weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from wanvae_app.config import PRESETS
from wanvae_app.fast.choice import build_vae
from wanvae_app.formats.checkpoint import load_vae
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.model.vae import WanVAE

# Standard deviation of a convolution's weights, times the square root of the numbers that each result adds up. The
# median of the demo VAE, which is trained, is 0.71 in the encoder and 0.89 in the decoder.
SCALE = 0.8


def make_vae(source: str, dtype: torch.dtype, device: torch.device, path: CodePath | None = None) -> WanVAE:
    """Return the VAE of a checkpoint, or one of PRESETS with random weights, the same on every rank and path.

    Random weights are as large as a trained VAE's: what a GPU draws depends on what it multiplies. `path` is as
    `build_vae` takes it.
    """
    if source not in PRESETS:
        return load_vae(source, dtype, device, path)
    torch.manual_seed(1)
    vae = build_vae(PRESETS[source], device, dtype, source, path)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                module.weight.mul_(SCALE * math.sqrt(3))  # PyTorch begins with 1 / sqrt(3)
    return vae.to(device, dtype).requires_grad_(False).channels_last()
