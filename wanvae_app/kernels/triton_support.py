"""Whether Triton's kernels run on a device."""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
import triton

from wanvae_app.kernels.norm import activate
from wanvae_app.kernels.padded_frames import PaddedFramePool

log = logging.getLogger(__name__)

COMPUTE_CAPABILITY = (9, 0)
SHARED_BYTES = 200 * 1024  # shared memory that a program uses, at most; consumer GPUs have less


@lru_cache
def why_unsupported(device: torch.device) -> str:
    """Return in a few words why the kernels do not run on a device, or "" if they do. Compiles and runs one of them."""
    if device.type != "cuda":
        return "there is no GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < COMPUTE_CAPABILITY:
        return f"the GPU's compute capability is {capability[0]}.{capability[1]}, and 9.0 is needed"
    try:
        shared = triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]
        if shared < SHARED_BYTES:
            needed = SHARED_BYTES // 1024
            return f"the GPU has {shared // 1024} KiB of shared memory for a program, and {needed} are needed"
        frames = PaddedFramePool(1, 1, 8, torch.bfloat16, device)
        activate(torch.ones(1, 1, 1, 8, dtype=torch.bfloat16, device=device), None, frames, frames.take(1))
    except Exception as error:  # the compiler and its tools raise anything; the plain path needs none of them
        log.warning(
            "Triton does not work here, so decoding is slower; it needs gcc and Python's headers: %s", error
        )
        return "Triton does not work; it needs gcc and Python's headers"
    return ""
