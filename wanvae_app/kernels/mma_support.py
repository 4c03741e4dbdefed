"""Whether the kernels of `mma_conv` run on a device."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

from wanvae_app.kernels.mma_conv import block_for, mma_conv, pack
from wanvae_app.kernels.padded_frames import PaddedFramePool

log = logging.getLogger(__name__)

CHANNELS = 8  # of the convolution that is tried


@lru_cache
def is_supported(device: torch.device) -> bool:
    """Return whether the kernel runs on this GPU, with NVRTC to compile it. Compiles and runs it once."""
    try:
        try_convolution(device)
        torch.cuda.synchronize(device)
    except (OSError, RuntimeError, AttributeError) as error:
        log.warning("Kernels in CUDA C++ do not work here, so coding is slower: %s", error)
        return False
    return True


def try_convolution(device: torch.device) -> torch.Tensor:
    """Convolve zeros of one pixel: return [1, 1, 1, CHANNELS]."""
    frames = PaddedFramePool(1, 1, CHANNELS, torch.float16, device)
    weight = torch.zeros(CHANNELS, CHANNELS, 3, 3, 3, dtype=torch.float16, device=device)
    bias = torch.zeros(CHANNELS, dtype=torch.bfloat16, device=device)
    block = block_for(device, CHANNELS, CHANNELS, 0, 3)
    return mma_conv(pack(weight, block, torch.float16), bias, block, 3, frames, (0, 0, 0))
