"""The choice between WanVAE and FastVAE: made once, when a VAE is made, by device, dtype and widths."""

from __future__ import annotations

import torch

from wanvae_app.config import WanConfig
from wanvae_app.model.vae import WanVAE

DTYPES = (torch.bfloat16, torch.float16)
WIDTH_MULTIPLE = 8  # channels: 16 bytes of 16-bit numbers, which a GPU's copy engines move at a time


def build_vae(config: WanConfig, device: torch.device, dtype: torch.dtype, name: str = "Wan VAE") -> WanVAE:
    """Return a VAE of this configuration: a FastVAE where `device` and `dtype` support it, else a WanVAE.

    The weights are made on PyTorch's present default device, which may be "meta".
    """
    if (
        device.type != "cuda"
        or dtype not in DTYPES
        or any(width % WIDTH_MULTIPLE for width in _widths(config))
    ):
        return WanVAE(config, name)
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    try:
        from wanvae_app.fast.vae import FastVAE
        from wanvae_app.kernels import triton_support, winograd
        from wanvae_app.kernels.kernel_set import KernelSet
    except ImportError:  # a build of PyTorch without Triton, or an old one
        return WanVAE(config, name)
    if triton_support.why_unsupported(device):
        return WanVAE(config, name)
    kernels = KernelSet.HOPPER if winograd.is_supported(device) else KernelSet.DESCRIPTORS
    return FastVAE(config, name, kernels)


def _widths(config: WanConfig) -> tuple[int, ...]:
    """Return the channels of all layers, except what encoder and decoder take in and put out."""
    upsampled = () if config.residual else tuple(width // 2 for width in config.decoder_dims[1:-1])
    return (*config.encoder_dims, *config.decoder_dims, *upsampled)
