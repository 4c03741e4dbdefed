"""The last convolution, to a few channels: matrix products, and this sum of their shifted rows.

A convolution to 3 channels does too little with each pixel it reads to be worth reading it 27 times. So some rows of a
frame at a time are multiplied once with all 27 taps, and what a pixel contributes to its neighbours is added up here:
to those of its own frame, and to those of the next two, which is kept until they come.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["pixels", "first"])
def taps_kernel(
    source,  # descriptor of the padded frames as rows [frames * pixels, C], block [BM, BK]
    weight,  # descriptor of all taps [N, C], block [BN, BK]
    slot,  # int32 [1]: where in `source` the frame lies
    products,  # [N, pitch]
    pixels,  # of a frame
    first,  # of those that are multiplied
    pitch,  # at least as many as these, a multiple of 16
    C: tl.constexpr, N: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Some pixels of a padded frame times all taps."""
    m0 = tl.program_id(0) * BM
    n0 = tl.program_id(1) * BN
    row = tl.load(slot) * pixels + first + m0
    acc = tl.zeros((BN, BM), tl.float32)
    for c in tl.range(0, C, BK, num_stages=STAGES):
        acc = tl.dot(weight.load([n0, c]), source.load([row, c]).T, acc)
    m = m0 + tl.arange(0, BM)[None, :]
    n = n0 + tl.arange(0, BN)[:, None]
    at = n.to(tl.int64) * pitch + m
    tl.store(products + at, acc.to(products.dtype.element_ty), (m < pitch) & (n < N))


@triton.jit
def _sum_of_nine(products, first, place, stride, pitch, mask, n, N: tl.constexpr):
    """What the nine taps from `first` on contribute to these pixels."""
    acc = tl.zeros(mask.shape, tl.float32)
    for kh in tl.static_range(3):
        for kw in tl.static_range(3):
            row = (first + kh * 3 + kw) * N + n
            at = row.to(tl.int64)[None, :] * pitch + (place + kh * stride + kw)[:, None]
            acc += tl.load(products + at, mask, 0.0).to(tl.float32)
    return acc


@triton.jit(do_not_specialize=["H", "W", "pitch", "apart"])
def head_kernel(
    products,  # [27 * N, pitch], pitch >= (H + 2) (W + 2): what each pixel adds to its neighbours
    bias,  # [N]
    due,  # float32 [2, H, W, N]: what earlier frames add to this one and the next, then this one to the next two
    out,  # [H, W, N]
    H, W, pitch,
    apart,  # numbers from one of due's two to the other
    N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    stride = W + 2
    place = m // W * stride + m % W
    mask = (m < H * W)[:, None] & (n < N)[None, :]
    at = m.to(tl.int64)[:, None] * N + n[None, :]
    later = due + apart.to(tl.int64) + at
    next_but_one = _sum_of_nine(products, 0, place, stride, pitch, mask, n, N)
    next_one = _sum_of_nine(products, 9, place, stride, pitch, mask, n, N) + tl.load(later, mask, 0.0)
    now = _sum_of_nine(products, 18, place, stride, pitch, mask, n, N) + tl.load(due + at, mask, 0.0)
    now += tl.load(bias + n, n < N, 0.0).to(tl.float32)[None, :]
    tl.store(out + at, now.to(out.dtype.element_ty), mask)
    tl.store(due + at, next_one, mask)
    tl.store(later, next_but_one, mask)
