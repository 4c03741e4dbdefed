"""How long diffusers takes for the same case with the same weights, where it is installed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wanvae_app.bench.case import Case
from wanvae_app.bench.clips import make_latent, make_video
from wanvae_app.bench.timing import synchronize
from wanvae_app.formats.checkpoint import external_state_dict
from wanvae_app.model.pixels import from_uint8
from wanvae_app.model.vae import WanVAE


def diffusers_seconds(vae: WanVAE, case: Case, repeat: int) -> dict[str, float] | None:
    """Median seconds of `repeat` warm runs of diffusers, by dtype: the VAE's, on a CPU float32 as well.

    None if diffusers is not installed, or has no such VAE.
    """
    config = vae.config
    is_pruned = config.encoder_widths or config.decoder_widths or config.upsampled_widths
    if config.output_patch != config.patch_size or is_pruned or config.lack or config.out_channels != 3:
        return None
    # Nobody decodes in float32 on a GPU. On a CPU it is the dtype that diffusers chooses by itself.
    dtypes = (vae.dtype,) if vae.device.type == "cuda" else (vae.dtype, torch.float32)
    found = {str(dtype).removeprefix("torch."): _seconds(vae, case, dtype, repeat) for dtype in dtypes}
    return {name: seconds for name, seconds in found.items() if seconds is not None} or None


def _seconds(vae: WanVAE, case: Case, dtype: torch.dtype, repeat: int) -> float | None:
    try:
        from diffusers import AutoencoderKLWan
        from diffusers.utils import logging
    except ImportError:
        return None
    logging.set_verbosity_error()
    c = vae.config
    channels = 3 * c.patch_size**2
    baseline: Any = AutoencoderKLWan(  # type: ignore[no-untyped-call]
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
    baseline.load_state_dict(external_state_dict(vae, "diffusers"))
    baseline = baseline.to(vae.device, dtype).eval()
    code: Callable[[Tensor], Any] = baseline.decode if case.kind == "decode" else baseline.encode
    if case.kind == "decode":
        x = make_latent(case, c).to(vae.device, dtype)
    else:
        x = from_uint8(make_video(case, c.in_channels).to(vae.device), dtype)
    times = []
    with torch.inference_mode():
        for _ in range(repeat + 1):
            synchronize(vae.device)
            start = time.perf_counter()
            code(x)
            synchronize(vae.device)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
