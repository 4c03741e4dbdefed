"""Norm and SiLU of each pixel, or nothing at all, written into the padded frames that a convolution reads."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _silu_norm(x, place, gamma, c, mask, C: tl.constexpr):
    """As `layers.PixelNorm`, then SiLU."""
    v = tl.load(x + place, mask, 0.0).to(tl.float32)
    v = v * tl.rsqrt(tl.sum(v * v, 1) / C + 1e-24)[:, None] * gamma
    return v * tl.sigmoid(v)


@triton.jit(do_not_specialize=["T", "H", "W"])
def norm_kernel(
    x,  # [T, H, W, C]
    gamma,  # [C]
    into,  # padded frames [frames, H + 2, W + 2, C]
    into_slots,  # int32 [T]
    T, H, W,
    C: tl.constexpr, NORM: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    t = tl.program_id(1)
    c = tl.arange(0, BC)[None, :]
    mask = (m < H * W)[:, None] & (c < C)
    pixel = (t.to(tl.int64) * (H * W) + m)[:, None] * C + c
    if NORM:
        v = _silu_norm(x, pixel, tl.load(gamma + c, c < C, 0.0).to(tl.float32), c, mask, C)
    else:
        v = tl.load(x + pixel, mask, 0.0)
    stride = W + 2
    place = tl.load(into_slots + t).to(tl.int64) * ((H + 2) * stride) + (m // W + 1) * stride + m % W + 1
    tl.store(into + place[:, None] * C + c, v.to(into.dtype.element_ty), mask)


@triton.jit
def _put(into, slot, frame, place, v, mask):
    """v into a padded frame; returns it as it is there."""
    v = v.to(into.dtype.element_ty)
    tl.store(into + tl.load(slot).to(tl.int64) * frame + place, v, mask)
    return v.to(tl.float32)


@triton.jit(do_not_specialize=["T", "H", "W"])
def ends_kernel(
    x,  # [T, H, W, C], four frames after four frames
    gamma,  # [C]
    frames,  # padded frames [frames, H + 2, W + 2, C]
    slots,  # int32 [2 + T + T / 2]: of two past frames, of silu(norm(x)), and of two frames e for every four
    T, H, W,
    C: tl.constexpr, SUM: tl.constexpr, PRODUCT: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BC)[None, :]
    mask = (m < H * W)[:, None] & (c < C)
    stride = W + 2
    frame = ((H + 2) * stride).to(tl.int64) * C
    place = ((m // W + 1) * stride + m % W + 1)[:, None] * C + c
    weight = tl.load(gamma + c, c < C, 0.0).to(tl.float32)
    d0 = tl.load(frames + tl.load(slots).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    d1 = tl.load(frames + tl.load(slots + 1).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    pixel = m.to(tl.int64)[:, None] * C + c
    step = (H * W).to(tl.int64) * C
    for t in range(0, T, 4):
        d2 = _put(frames, slots + t + 2, frame, place, _silu_norm(x, pixel, weight, c, mask, C), mask)
        d3 = _put(frames, slots + t + 3, frame, place, _silu_norm(x, pixel + step, weight, c, mask, C), mask)
        d0 = PRODUCT * d0 - SUM * d2
        d1 = PRODUCT * d1 - SUM * d3
        d2 = _put(
            frames, slots + t + 4, frame, place, _silu_norm(x, pixel + 2 * step, weight, c, mask, C), mask
        )
        d3 = _put(
            frames, slots + t + 5, frame, place, _silu_norm(x, pixel + 3 * step, weight, c, mask, C), mask
        )
        ends = slots + 2 + T + t // 2
        _put(frames, ends, frame, place, d0 + d2, mask)
        _put(frames, ends + 1, frame, place, d1 + d3, mask)
        d0 = d2
        d1 = d3
        pixel += 4 * step


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
