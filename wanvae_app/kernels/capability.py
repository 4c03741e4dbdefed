"""The compute capability that kernels are made for, and the shared memory of such cards.

A card can pretend to be an older one: so an Ampere card's kernels are tried on a Hopper GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

# KiB of a multiprocessor (CUDA C++ Programming Guide, "Technical specifications per compute capability"). A block gets
# at most 1 KiB less, and takes 1 KiB more than it asks for.
SHARED_KIB = {80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 103: 228, 120: 100, 121: 100}
SMALLEST_SHARED_KIB = 100

_pretended: ContextVar[int | None] = ContextVar("_pretended", default=None)


@contextmanager
def compiled_as(capability: int) -> Iterator[None]:
    """Choose and compile kernels as for cards of another compute capability, such as 80, until the block ends.

    The card in hand must not be older. Of kernels in CUDA C++ the driver translates that card's PTX.
    """
    token = _pretended.set(capability)
    try:
        yield
    finally:
        _pretended.reset(token)


def pretended_capability() -> int | None:
    """Return the capability that `compiled_as` asks for; None outside of it."""
    return _pretended.get()


def capability_of(device: torch.device) -> int:
    """Return the compute capability that kernels are made for, as 10 * major + minor; 80 where there is no GPU."""
    pretended = _pretended.get()
    if pretended is not None:
        return pretended
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def shared_bytes(capability: int) -> int:
    """Return the bytes of shared memory of a multiprocessor; of an unknown card, as few as any has."""
    return 1024 * SHARED_KIB.get(capability, SMALLEST_SHARED_KIB)
