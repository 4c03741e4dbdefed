"""Numbers in [-1, 1] to pixels in 0..255: one pass in place of seven. The plain equal is `codec.to_uint8`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count"])
def pixel_kernel(
    x,  # [count]
    out,  # uint8 [count]
    count,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = (tl.load(x + i, i < count, 0.0).to(tl.float32) + 1.0) * 127.5
    # Beyond 2^23 float32 has no fractions: adding that much rounds to nearest, halves to even.
    v = tl.minimum(tl.maximum(v, 0.0), 255.0) + 12582912.0
    tl.store(out + i, (v - 12582912.0).to(tl.uint8), i < count)
