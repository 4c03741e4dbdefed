"""KernelSet: which of the kernels for convolutions and attention a GPU runs."""

from __future__ import annotations

from enum import Enum


class KernelSet(Enum):
    """Kernels that read tiles by the same means. The value is what users are told of the path.

    All sets share the schedule of `fast/`, and the kernels that read no tiles: norm, transform, head and pixels.
    """

    HOPPER = (
        "fast (Hopper)"  # CUDA C++ for compute capability 9.0, with DESCRIPTORS for what it does not take
    )
    DESCRIPTORS = "fast (Triton)"  # tiles by tensor descriptors: compute capability 9.0 without NVRTC, and 10
    POINTERS = "fast (Ampere and later)"  # tiles by pointers: compute capability 8 and 12
