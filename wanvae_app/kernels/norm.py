"""Norm and SiLU of each pixel, or nothing at all, written into the padded frames that a convolution reads."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _silu_norm(x, gamma, mask, C: tl.constexpr):
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
        v = _silu_norm(x + pixel, tl.load(gamma + c, c < C, 0.0).to(tl.float32), inside & (c < C), C)
    else:
        v = tl.load(x + pixel, inside & (c < C), 0.0)
    stride = W + 2
    place = tl.load(into_slots + t).to(tl.int64) * ((H + 2) * stride) + (m // W + 1) * stride + m % W + 1
    tl.store(into + place[:, None] * N + c, v.to(into.dtype.element_ty), inside & (c < N))


@triton.jit
def _normed(x, gamma, mask, DTYPE: tl.constexpr, C: tl.constexpr):
    """silu(norm(x)), rounded as it would be in frames of that type."""
    return _silu_norm(x, gamma, mask, C).to(DTYPE).to(tl.float32)


@triton.jit
def _put(frames, slot, frame, place, v, mask):
    """v into a padded frame."""
    tl.store(frames + tl.load(slot).to(tl.int64) * frame + place, v.to(frames.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["T", "H", "W"])
def transform_kernel(
    x,  # [T, H, W, C], four frames after four frames
    gamma,  # [C]
    frames,  # padded frames [frames, H + 2, W + 2, C]
    slots,  # int32 [2 + T / 4 * 6 + 2]: of two past frames, of the products', and of the last two
    T, H, W,
    C: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BC)[None, :]
    mask = (m < H * W)[:, None] & (c < C)
    stride = W + 2
    frame = ((H + 2) * stride).to(tl.int64) * C
    place = ((m // W + 1) * stride + m % W + 1)[:, None] * C + c
    weight = tl.load(gamma + c, c < C, 0.0).to(tl.float32)
    past = frames + place
    d0 = tl.load(past + tl.load(slots).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    d1 = tl.load(past + tl.load(slots + 1).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    x += m.to(tl.int64)[:, None] * C + c
    step = (H * W).to(tl.int64) * C
    slots += 2
    for _ in range(0, T, 4):
        d2 = _normed(x, weight, mask, frames.dtype.element_ty, C)
        d3 = _normed(x + step, weight, mask, frames.dtype.element_ty, C)
        d4 = _normed(x + 2 * step, weight, mask, frames.dtype.element_ty, C)
        even = d4 - B * B * d2
        odd = A * (d3 - B * B * d1)
        _put(frames, slots, frame, place, even + odd, mask)
        _put(frames, slots + 1, frame, place, even - odd, mask)
        even = d4 - A * A * d2
        odd = B * (d3 - A * A * d1)
        _put(frames, slots + 2, frame, place, even + odd, mask)
        _put(frames, slots + 3, frame, place, even - odd, mask)
        _put(frames, slots + 4, frame, place, d4 - (A * A + B * B) * d2 + A * A * B * B * d0, mask)
        d5 = _normed(x + 3 * step, weight, mask, frames.dtype.element_ty, C)
        _put(frames, slots + 5, frame, place, d5 - (A * A + B * B) * d3 + A * A * B * B * d1, mask)
        d0 = d4
        d1 = d5
        slots += 6
        x += 4 * step
    _put(frames, slots, frame, place, d0, mask)
    _put(frames, slots + 1, frame, place, d1, mask)


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
