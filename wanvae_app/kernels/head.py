"""The last convolution, to a few channels: one matrix product per frame, and this sum of its shifted rows.

A convolution to 3 channels does too little with each pixel it reads to be worth reading it 27 times. So every
frame is multiplied once with all 27 taps, and what a pixel contributes to its neighbours is added up here.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def taps_kernel(
    source,  # descriptor of the padded frames as rows [frames * rows, C], block [BM, BK]
    weight,  # descriptor of all taps [N, C], block [BN, BK]
    slots,  # int32 [T]: where in `source` the frames lie
    products,  # [frames, N, pitch], pitch >= rows a multiple of 16
    into_slots,  # int32 [T]: where in `products` they go
    rows, pitch,
    C: tl.constexpr, N: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Each pixel of the padded frames times all taps."""
    m0 = tl.program_id(0) * BM
    n0 = tl.program_id(1) * BN
    t = tl.program_id(2)
    row = tl.load(slots + t) * rows + m0
    acc = tl.zeros((BN, BM), tl.float32)
    for c in tl.range(0, C, BK, num_stages=STAGES):
        acc = tl.dot(weight.load([n0, c]), source.load([row, c]).T, acc)
    m = m0 + tl.arange(0, BM)[None, :]
    n = n0 + tl.arange(0, BN)[:, None]
    base = products + tl.load(into_slots + t).to(tl.int64) * N * pitch
    tl.store(base + n * pitch + m, acc.to(products.dtype.element_ty), (m < pitch) & (n < N))


@triton.jit(do_not_specialize=["T", "H", "W", "pitch"])
def head_kernel(
    products,  # [frames, 27 * N, pitch], pitch >= (H + 2) (W + 2): what each pixel adds to its neighbours
    slots,  # int32 [T + 2]: where in `products` past and present frames lie
    bias,  # [N]
    out,  # [T, H, W, N]
    T, H, W, pitch,
    N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    t = tl.program_id(1)
    n = tl.arange(0, BN)
    stride = W + 2
    y = m // W
    place = y * stride + m % W
    mask = (m < H * W)[:, None] & (n < N)[None, :]
    acc = tl.zeros((BM, BN), tl.float32) + tl.load(bias + n, n < N, 0.0).to(tl.float32)[None, :]
    for kt in tl.static_range(3):
        base = products + tl.load(slots + t + kt).to(tl.int64) * (27 * N) * pitch
        for kh in tl.static_range(3):
            for kw in tl.static_range(3):
                row = (kt * 9 + kh * 3 + kw) * N + n
                at = row[None, :] * pitch + (place + kh * stride + kw)[:, None]
                acc += tl.load(base + at, mask, 0.0).to(tl.float32)
    at = (t.to(tl.int64) * (H * W) + m)[:, None] * N + n[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask)
