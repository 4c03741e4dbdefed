"""How long diffusers takes for the same work with the same weights, where it is installed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wanvae_app.bench.case import Case
from wanvae_app.bench.measure import synchronize
from wanvae_app.formats.checkpoint import external_state_dict
from wanvae_app.model.vae import WanVAE


def diffusers_seconds(vae: WanVAE, case: Case, dtype: torch.dtype, repeat: int) -> float | None:
    """Median seconds of diffusers with the same weights; None where it is not installed."""
    try:
        from diffusers import AutoencoderKLWan
        from diffusers.utils import logging
    except ImportError:
        return None
    logging.set_verbosity_error()
    c = vae.config
    channels = 3 * c.patch_size**2
    theirs: Any = AutoencoderKLWan(
        base_dim=c.base_dim,
        decoder_base_dim=c.decoder_base_dim,
        z_dim=c.z_dim,
        dim_mult=list(c.dim_mult),
        num_res_blocks=c.num_res_blocks,
        temperal_downsample=list(c.temporal_downsample),
        latents_mean=list(c.latents_mean),
        latents_std=list(c.latents_std),
        is_residual=c.residual,
        in_channels=channels,
        out_channels=channels,
        patch_size=c.patch_size if c.patch_size > 1 else None,
    )
    theirs.load_state_dict(external_state_dict(vae, "diffusers"))
    theirs = theirs.to(vae.device, dtype).eval()
    step: Callable[[Tensor], Any] = theirs.decode if case.kind == "decode" else theirs.encode
    shape = (
        case.latent_shape(c) if case.kind == "decode" else (1, 3, case.num_frames, case.height, case.width)
    )
    x = torch.randn(shape).to(vae.device, dtype)
    times = []
    with torch.inference_mode():
        for _ in range(repeat + 1):
            synchronize(vae.device)
            start = time.perf_counter()
            step(x)
            synchronize(vae.device)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
