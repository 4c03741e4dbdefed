"""What the sums of the direct convolution begin with, and how they become results: for one tile of one frame.

`direct_conv.conv_kernel` calls these functions; its arguments have the same names here. A tile is BM pixels from m0 on,
counted in rows of W + 2, and channels out from n0 on. (dy, dx) is the phase of an enlarged picture.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_shortcut(
    shortcut, t, H, W, m0, n, dy, dx,
    N: tl.constexpr, UP: tl.constexpr, TIME_FACTOR: tl.constexpr, CHANNELS_PER_OUTPUT: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Return what the shortcut adds to channels n [BN] of a tile: float32 [BM, BN].

    t counts the TIME_FACTOR * T' frames that the shortcut becomes.
    """
    m = m0 + tl.arange(0, BM)
    y = m // (W + 2)
    x = m % (W + 2)
    mask = ((x < W) & (y < H))[:, None] & (n < N)[None, :]
    # In steps of CHANNELS_PER_OUTPUT numbers.
    at = ((t // TIME_FACTOR * H + y) * W + x).to(tl.int64)[:, None] * N + n[None, :]
    if CHANNELS_PER_OUTPUT == 1:
        return tl.load(shortcut + at, mask, 0.0).to(tl.float32)
    # A pixel becomes TIME_FACTOR * UP^2 pixels: each of them gets one of the channels.
    mine = ((t % TIME_FACTOR * UP + dy) * UP + dx) * CHANNELS_PER_OUTPUT // (TIME_FACTOR * UP * UP)
    if CHANNELS_PER_OUTPUT == 2:  # load both as one number, so that neighbours are side by side
        BITS: tl.constexpr = shortcut.dtype.element_ty.primitive_bitwidth
        BOTH: tl.constexpr = tl.int32 if BITS == 16 else tl.int64
        ONE: tl.constexpr = tl.int16 if BITS == 16 else tl.int32
        both = tl.load(shortcut.to(tl.pointer_type(BOTH)) + at, mask, 0)
        one = (both >> (mine * BITS).to(BOTH)).to(ONE)
        return one.to(shortcut.dtype.element_ty, bitcast=True).to(tl.float32)
    return tl.load(shortcut + at * CHANNELS_PER_OUTPUT + mine, mask, 0.0).to(tl.float32)


@triton.jit
def _add_bias(
    p, bias, residual, out, pixel, inside, n, N: tl.constexpr, RESIDUAL: tl.constexpr, NORM: tl.constexpr
):
    """Return the sums p [BM, BN] of channels n [BN] with bias and residual added. Store them unless a norm follows.

    `pixel` [BM] is where in `out` the tile's pixels lie, and `inside` [BM] which of them are of the picture.
    """
    mask = inside[:, None] & (n < N)[None, :]
    p += tl.load(bias + n, n < N, 0.0).to(tl.float32)[None, :]
    at = pixel[:, None] * N + n[None, :]
    if RESIDUAL:
        p += tl.load(residual + at, mask, 0.0).to(tl.float32)
    if not NORM:
        tl.store(out + at, p.to(out.dtype.element_ty), mask)
    return p


@triton.jit
def _store_silu(p, scale, gamma, out, at, inside, n, N: tl.constexpr):
    """Store silu(p * scale * gamma) of channels n."""
    v = p * scale * tl.load(gamma + n, n < N, 0.0).to(tl.float32)[None, :]
    mask = inside[:, None] & (n < N)[None, :]
    tl.store(out + at + n[None, :], (v * tl.sigmoid(v)).to(out.dtype.element_ty), mask)


@triton.jit
def store_results(
    p, q, bias, residual, out, gamma, out_slots, t, H, W, m0, n0, dy, dx,
    N: tl.constexpr, UP: tl.constexpr, RESIDUAL: tl.constexpr, PADDED: tl.constexpr, NORM: tl.constexpr,
    BM: tl.constexpr, BN1: tl.constexpr, BN2: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """Store the sums of a tile of frame t, p [BM, BN1] and q [BM, BN2], with all that follows them."""
    stride = W + 2
    m = m0 + tl.arange(0, BM)
    y = m // stride
    x = m % stride
    inside = (x < W) & (y < H)
    if PADDED:
        pixel = tl.load(out_slots + t).to(tl.int64) * ((H + 2) * stride) + (y + 1) * stride + x + 1
    else:
        pixel = ((t * UP * H + UP * y + dy) * (UP * W) + UP * x + dx).to(tl.int64)
    n1 = n0 + tl.arange(0, BN1)
    n2 = n0 + BN1 + tl.arange(0, BN2)
    p = _add_bias(p, bias, residual, out, pixel, inside, n1, N, RESIDUAL, NORM)
    if SECOND:
        q = _add_bias(q, bias, residual, out, pixel, inside, n2, N, RESIDUAL, NORM)
    if NORM:  # all of a pixel's channels are here: BN1 + BN2 >= N; those beyond N are zeros
        square = tl.sum(p * p, 1)
        if SECOND:
            square += tl.sum(q * q, 1)
        scale = tl.rsqrt(square / N + 1e-24)[:, None]
        at = pixel[:, None] * N
        _store_silu(p, scale, gamma, out, at, inside, n1, N)
        if SECOND:
            _store_silu(q, scale, gamma, out, at, inside, n2, N)
