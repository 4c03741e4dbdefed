"""A clip through the VAE, chunk by chunk, as generators: each chunk's result is there before the next chunk begins.

for frames in decode_chunks(vae, latents.split(chunk_sizes(latents.shape[2], 2), 2)):
    show(vae.to_uint8(frames))
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.shard import WHOLE, Shard

log = logging.getLogger(__name__)


def warm_up(vae: WanVAE) -> None:
    """On a GPU, code a short clip of a common size, so that the first run need not wait for compilers and libraries.

    Compiled kernels stay on disk for the next start.
    """
    if vae.device.type != "cuda":
        return
    begun, config = time.perf_counter(), vae.config
    height, width = 480 // config.spatial_factor, 832 // config.spatial_factor
    try:
        if config.has_decoder:
            latents = torch.randn(1, config.z_dim, 4, height, width, device=vae.device)
            for _ in decode_chunks(vae, latents.split([1, 1, 2], 2)):
                torch.cuda.synchronize(vae.device)
        if config.has_encoder:
            frames = torch.rand(1, config.in_channels, 13, 480, 832, device=vae.device)
            for _ in encode_chunks(vae, frames.split([1, 4, 8], 2)):
                torch.cuda.synchronize(vae.device)
    except Exception as error:  # whatever a compiler raises: a run will raise it again, and report it
        log.warning("warming up failed: %s", error)
    else:
        vae.release()
        log.info("warmed up in %.1f s", time.perf_counter() - begun)


def chunk_sizes(num_latents: int, chunk: int) -> list[int]:
    """Return the number of latent frames in each chunk of a clip: 1, then `chunk` each, and the rest in the last.

    The clip's first latent frame is a chunk of its own, because it becomes one frame only, which is seen soonest so.
    """
    return [1, *(min(chunk, num_latents - start) for start in range(1, num_latents, chunk))]


def decode_chunks(vae: WanVAE, latents: Iterable[Tensor], shard: Shard = WHOLE) -> Iterator[Tensor]:
    """Decode chunks of raw latents [B z T H W], this rank's part, to frames [B C T' H' W'] in [-1, 1], of vae.dtype.

    Takes a chunk of latents when its frames are asked for. Any chunking gives the same frames.
    """
    yield from _chunks(vae, "decode", latents, shard)


def encode_chunks(vae: WanVAE, frames: Iterable[Tensor], shard: Shard = WHOLE) -> Iterator[Tensor]:
    """Encode chunks of frames [B C T H W] in [-1, 1], this rank's part, to raw latents [B z T' H' W'], the mean.

    The first chunk has 1 + 4 k frames, the others have 4 k. Takes a chunk of frames when its latents are asked for.
    """
    yield from _chunks(vae, "encode", frames, shard)


def _chunks(vae: WanVAE, phase: str, chunks: Iterable[Tensor], shard: Shard) -> Iterator[Tensor]:
    remaining = (x.to(vae.device, vae.dtype).contiguous(memory_format=torch.channels_last_3d) for x in chunks)
    for first in remaining:
        with vae.clip(phase, first.shape, shard) as code:
            for x in itertools.chain([first], remaining):
                # Not around the yield: the generator's caller must not be in inference mode.
                with torch.inference_mode():
                    x = code(x)
                yield x
