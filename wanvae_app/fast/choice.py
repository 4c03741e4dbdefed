"""Which path a VAE takes: chosen once, when it is made, by device, dtype and widths."""

from __future__ import annotations

import torch

from wanvae_app.config import WanConfig
from wanvae_app.model.vae import WanVAE

DTYPES = (torch.bfloat16, torch.float16)
WIDTH_MULTIPLE = 8  # channels: 16 bytes of 16-bit numbers, which copy engines take at a time


def build_vae(config: WanConfig, device: torch.device, dtype: torch.dtype, name: str = "Wan VAE") -> WanVAE:
    """Return the VAE of this configuration as it is fastest on `device` in `dtype`: a FastVAE where that is supported.

    Its weights are made where PyTorch makes tensors at the time, for instance on the device "meta".
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
    except ImportError:  # a build of PyTorch without Triton, or an old one
        return WanVAE(config, name)
    if triton_support.why_unsupported(device):
        return WanVAE(config, name)
    return FastVAE(config, name, hopper=winograd.is_supported(device))


def _widths(config: WanConfig) -> tuple[int, ...]:
    """Channels of all layers but the first and the last of encoder and decoder."""
    enlarged = () if config.residual else tuple(width // 2 for width in config.decoder_dims[1:-1])
    return (*config.encoder_dims, *config.decoder_dims, *enlarged)
