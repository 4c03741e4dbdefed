"""Norm and SiLU of each pixel, or nothing at all, written into the padded frames that a convolution reads."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def silu_norm(x, gamma, mask, C: tl.constexpr):
    """Pixels at x as `layers.PixelNorm` norms them, then SiLU."""
    v = tl.load(x, mask, 0.0).to(tl.float32)
    v = v * tl.rsqrt(tl.sum(v * v, 1) / C + 1e-24)[:, None] * gamma
    return v * tl.sigmoid(v)


@triton.jit(do_not_specialize=["T", "H", "W"])
def norm_kernel(
    x,  # [T, H, W, C]
    gamma,  # [C]
    into,  # padded frames [frames, H + 2, W + 2, N]; N may be more than C, and the rest becomes zeros
    into_slots,  # int32 [T]
    T, H, W,
    C: tl.constexpr, N: tl.constexpr, NORM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    t = tl.program_id(1)
    c = tl.arange(0, BN)[None, :]
    inside = (m < H * W)[:, None]
    pixel = (t.to(tl.int64) * (H * W) + m)[:, None] * C + c
    if NORM:
        v = silu_norm(x + pixel, tl.load(gamma + c, c < C, 0.0).to(tl.float32), inside & (c < C), C)
    else:
        v = tl.load(x + pixel, inside & (c < C), 0.0)
    stride = W + 2
    place = tl.load(into_slots + t).to(tl.int64) * ((H + 2) * stride) + (m // W + 1) * stride + m % W + 1
    tl.store(into + place[:, None] * N + c, v.to(into.dtype.element_ty), inside & (c < N))


@triton.jit(do_not_specialize=["count"])
def blank_kernel(
    frames,  # int32 words of frames, `count` each
    slots,  # int32 [T]: which of them become zeros
    count,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    base = frames + tl.load(slots + tl.program_id(1)).to(tl.int64) * count
    tl.store(base + i, tl.zeros((BLOCK,), tl.int32), i < count)
