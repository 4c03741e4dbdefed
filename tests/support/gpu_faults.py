"""Kernels that do to a GPU what a bad day does: one never ends, one loses the device for its process."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

UNMAPPED = 64  # an address in the first page, where no memory is


@triton.jit
def spin_kernel(
    flag,  # int32 [1]
):
    """Wait until *flag is not 0."""
    while tl.atomic_add(flag, 0, sem="acquire", scope="sys") == 0:
        pass


@triton.jit
def write_kernel(
    address,  # int64 [1]: of an int32 that is set to 1
):
    tl.store(tl.load(address).to(tl.pointer_type(tl.int32)), 1)


def spin(flag: Tensor) -> None:
    """Let the current stream wait until flag, int32 [1], is not 0; with a 0 that nobody changes, for ever."""
    spin_kernel[(1,)](flag)


def write_nowhere(device: torch.device) -> None:
    """Write to an address that does not exist. From then on every call of CUDA fails in this process."""
    write_kernel[(1,)](torch.full((1,), UNMAPPED, device=device))
