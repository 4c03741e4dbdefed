"""Frames as `winograd.cu` reads them for four at a time: norm, SiLU and the transform of F(4, 3) along time.

Of four frames in, d2 to d5, and the two before, d0 and d1, it makes what the six products multiply. Where a neighbour's
rows belong into the borders, these are made afterwards, of the frames' own borders: so only those travel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wanvae_app.kernels.norm import silu_norm


@triton.jit
def _normed(x, gamma, mask, DTYPE: tl.constexpr, C: tl.constexpr):
    """silu(norm(x)), rounded as it would be in frames of that type."""
    return silu_norm(x, gamma, mask, C).to(DTYPE).to(tl.float32)


@triton.jit
def _put(frames, slot, frame, place, v, mask):
    """v into a padded frame."""
    tl.store(frames + tl.load(slot).to(tl.int64) * frame + place, v.to(frames.dtype.element_ty), mask)


@triton.jit
def _put_products(frames, slots, frame, place, d0, d1, d2, d3, d4, mask, A: tl.constexpr, B: tl.constexpr):
    """What `winograd.cu` multiplies for four frames at a time, into frames; the last of six needs d5 as well."""
    even = d4 - B * B * d2
    odd = A * (d3 - B * B * d1)
    _put(frames, slots, frame, place, even + odd, mask)
    _put(frames, slots + 1, frame, place, even - odd, mask)
    even = d4 - A * A * d2
    odd = B * (d3 - A * A * d1)
    _put(frames, slots + 2, frame, place, even + odd, mask)
    _put(frames, slots + 3, frame, place, even - odd, mask)
    _put(frames, slots + 4, frame, place, d4 - (A * A + B * B) * d2 + A * A * B * B * d0, mask)


@triton.jit
def _put_last_product(frames, slots, frame, place, d1, d3, d5, mask, A: tl.constexpr, B: tl.constexpr):
    """The last of the six."""
    _put(frames, slots + 5, frame, place, d5 - (A * A + B * B) * d3 + A * A * B * B * d1, mask)


@triton.jit(do_not_specialize=["T", "H", "W"])
def transform_kernel(
    x,  # [T, H, W, C], four frames after four frames
    gamma,  # [C]
    frames,  # padded frames [frames, H + 2, W + 2, C]
    slots,  # int32: of 2 past frames, of T / 4 * 6 for products, and of the last two or, with EDGES, of all T frames
    T, H, W,
    C: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    EDGES: tl.constexpr,  # of the frames before the last two, only the pixels at the edges are kept
    BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BC)[None, :]
    mask = (m < H * W)[:, None] & (c < C)
    edge = mask & ((m < W) | (m >= (H - 1) * W) | (m % W == 0) | (m % W == W - 1))[:, None]
    stride = W + 2
    frame = ((H + 2) * stride).to(tl.int64) * C
    place = ((m // W + 1) * stride + m % W + 1)[:, None] * C + c
    weight = tl.load(gamma + c, c < C, 0.0).to(tl.float32)
    DTYPE: tl.constexpr = frames.dtype.element_ty
    past = frames + place
    d0 = tl.load(past + tl.load(slots).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    d1 = tl.load(past + tl.load(slots + 1).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    x += m.to(tl.int64)[:, None] * C + c
    step = (H * W).to(tl.int64) * C
    kept = slots + 2 + T // 4 * 6
    slots += 2
    for _ in range(0, T, 4):
        d2 = _normed(x, weight, mask, DTYPE, C)
        d3 = _normed(x + step, weight, mask, DTYPE, C)
        d4 = _normed(x + 2 * step, weight, mask, DTYPE, C)
        _put_products(frames, slots, frame, place, d0, d1, d2, d3, d4, mask, A, B)
        if EDGES:
            _put(frames, kept, frame, place, d2, edge)
            _put(frames, kept + 1, frame, place, d3, edge)
            _put(frames, kept + 2, frame, place, d4, edge)
        d5 = _normed(x + 3 * step, weight, mask, DTYPE, C)
        _put_last_product(frames, slots, frame, place, d1, d3, d5, mask, A, B)
        if EDGES:
            _put(frames, kept + 3, frame, place, d5, edge)
            kept += 4
        d0 = d4
        d1 = d5
        slots += 6
        x += 4 * step
    if EDGES:
        kept -= 2
    _put(frames, kept, frame, place, d0, mask)
    _put(frames, kept + 1, frame, place, d1, mask)


@triton.jit(do_not_specialize=["T", "H", "W"])
def transform_borders_kernel(
    frames,  # padded frames [frames, H + 2, W + 2, C]
    slots,  # int32 [2 + T / 4 * 6 + T]: as of `transform_kernel` with EDGES
    T, H, W,
    C: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    stride = W + 2
    # Along the upper border, the lower one, and both sides by turns.
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    q = tl.program_id(1)
    c = tl.arange(0, BC)[None, :]
    j = i - 2 * stride
    y = tl.where(i < stride, 0, tl.where(j < 0, H + 1, 1 + j // 2))
    x = tl.where(i < stride, i, tl.where(j < 0, i - stride, j % 2 * (W + 1)))
    mask = (j < 2 * H)[:, None] & (c < C)
    frame = ((H + 2) * stride).to(tl.int64) * C
    place = (y * stride + x)[:, None] * C + c
    new = slots + 2 + T // 4 * 6 + 4 * q
    older = tl.where(q == 0, slots, new - 2)
    d0 = tl.load(frames + tl.load(older).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    d1 = tl.load(frames + tl.load(older + 1).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    d2 = tl.load(frames + tl.load(new).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    d3 = tl.load(frames + tl.load(new + 1).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    d4 = tl.load(frames + tl.load(new + 2).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    d5 = tl.load(frames + tl.load(new + 3).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    slots += 2 + 6 * q
    _put_products(frames, slots, frame, place, d0, d1, d2, d3, d4, mask, A, B)
    _put_last_product(frames, slots, frame, place, d1, d3, d5, mask, A, B)
