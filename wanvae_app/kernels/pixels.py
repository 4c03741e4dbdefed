"""Numbers in [-1, 1] to uint8 pixels: one pass in place of seven. The plain equal is `model.pixels.to_uint8`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanvae_app.kernels.launch import launch


@triton.jit(do_not_specialize=["count"])
def pixel_kernel(
    x,  # [count], in [-1, 1]; what is beyond is clamped
    out,  # uint8 [count]
    count,
    BLOCK: tl.constexpr,  # numbers of a program
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = (tl.load(x + i, i < count, 0.0).to(tl.float32) + 1.0) * 127.5
    # Beyond 2^23 float32 has no fractions: adding that much rounds to nearest, halves to even.
    v = tl.minimum(tl.maximum(v, 0.0), 255.0) + 12582912.0
    tl.store(out + i, (v - 12582912.0).to(tl.uint8), i < count)


def to_uint8(x: Tensor) -> Tensor:
    """Return contiguous numbers in [-1, 1] as uint8 pixels 0 to 255 of the same shape, rounded to nearest."""
    assert x.is_contiguous(), x.stride()
    out = torch.empty_like(x, dtype=torch.uint8)
    launch(pixel_kernel, (triton.cdiv(x.numel(), 4096),), x, out, x.numel(), BLOCK=4096, num_warps=8)
    return out
