"""A tile of a matrix, which Triton's kernels load by a tensor descriptor or by pointers.

Descriptors become the copy engine of Hopper and Blackwell GPUs. On others Triton would make slow loads of them, and
pointers become `cp.async`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def load_tile(
    x, row, column, rows, stride, COLUMNS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, POINTERS: tl.constexpr
):  # fmt: skip
    """Return tile [BM, BN] of a matrix at this row and column; zeros from row `rows` and column COLUMNS on.

    x is a descriptor of blocks [BM, BN]; with POINTERS a pointer to the matrix, whose rows are `stride` numbers apart.
    """
    if POINTERS:
        m = row + tl.arange(0, BM)
        n = column + tl.arange(0, BN)
        mask = (m < rows)[:, None]
        if COLUMNS % BN:
            mask = mask & (n < COLUMNS)[None, :]
        return tl.load(x + m.to(tl.int64)[:, None] * stride + n[None, :], mask, 0.0)
    else:
        return x.load([row, column])


def tiles_of(x: Tensor, block: tuple[int, int], pointers: bool) -> TensorDescriptor | Tensor:
    """Return what `load_tile` takes for a matrix x, whose rows may be apart, and tiles of the size `block`."""
    assert x.ndim == 2 and x.stride(1) == 1, x.stride()
    return x if pointers else TensorDescriptor(x, list(x.shape), list(x.stride()), list(block))
