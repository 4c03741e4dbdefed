"""LazyTensor: a tensor in a file, described by the file's header, its values not read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LazyTensor:
    """A tensor's shape and dtype as its file's header states them, and `read`, which reads its values.

    `read` returns a contiguous tensor on the CPU, in the dtype of the file. It takes no more memory than the
    file is large. It raises OSError, RuntimeError or ValueError if the file has changed since its header was read.
    """

    shape: tuple[int, ...]
    dtype: str  # as the file's format spells it: "F32" in safetensors, "float32" elsewhere
    is_floating_point: bool
    read: Callable[[], Tensor]
