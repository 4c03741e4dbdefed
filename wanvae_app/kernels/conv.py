"""A causal 3x3x3 convolution as 27 shifted matrix products, with what follows it done before it is stored.

Its input lies in padded frames, channels last (see `padded_frames.py`): flattened to rows of C numbers, what one tap
of the kernel sees of a whole frame is one matrix, shifted by some rows. So the convolution is a sum of matrix
products that read the same memory, and nothing is unfolded. A program computes the same place of F frames, so
that each tile it fetches serves up to three of them. A shortcut around the upsampling level is what the sum begins
with; bias, residual and the next layer's norm and SiLU are applied while the result is still in registers. The plain
equal is in `layers.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _add(a, b, c, p, q, SECOND: tl.constexpr):
    """p += a b^T, and q += a c^T where there is a second part."""
    p = tl.dot(a, b.T, p)
    if SECOND:
        q = tl.dot(a, c.T, q)
    return p, q


@triton.jit
def _duplicated(
    shortcut, t, H, W, m0, n, dy, dx,
    N: tl.constexpr, UP: tl.constexpr, TIME: tl.constexpr, CHANNELS: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """What the shortcut adds to channels n of some pixels' phase (dy, dx), in frame t of the TIME * T' it becomes."""
    m = m0 + tl.arange(0, BM)
    y = m // (W + 2)
    x = m % (W + 2)
    mask = ((x < W) & (y < H))[:, None] & (n < N)[None, :]
    pixel = ((t // TIME * H + y) * W + x).to(tl.int64)[:, None] * N + n[None, :]
    if CHANNELS == 1:
        return tl.load(shortcut + pixel, mask, 0.0).to(tl.float32)
    # Every copy has its own of them.
    mine = ((t % TIME * UP + dy) * UP + dx) * CHANNELS // (TIME * UP * UP)
    if CHANNELS == 2:  # both are loaded as one number, side by side with their neighbours
        BITS: tl.constexpr = shortcut.dtype.element_ty.primitive_bitwidth
        BOTH: tl.constexpr = tl.int32 if BITS == 16 else tl.int64
        ONE: tl.constexpr = tl.int16 if BITS == 16 else tl.int32
        both = tl.load(shortcut.to(tl.pointer_type(BOTH)) + pixel, mask, 0)
        one = (both >> (mine * BITS).to(BOTH)).to(ONE)
        return one.to(shortcut.dtype.element_ty, bitcast=True).to(tl.float32)
    return tl.load(shortcut + pixel * CHANNELS + mine, mask, 0.0).to(tl.float32)


@triton.jit
def _part(
    p, bias, residual, out, pixel, inside, n, N: tl.constexpr, RESIDUAL: tl.constexpr, NORM: tl.constexpr
):
    """Bias and residual added to some channels; and, if no norm follows, the sum stored."""
    mask = inside[:, None] & (n < N)[None, :]
    p += tl.load(bias + n, n < N, 0.0).to(tl.float32)[None, :]
    place = pixel[:, None] * N + n[None, :]
    if RESIDUAL:
        p += tl.load(residual + place, mask, 0.0).to(tl.float32)
    if not NORM:
        tl.store(out + place, p.to(out.dtype.element_ty), mask)
    return p


@triton.jit
def _activate(p, scale, gamma, out, place, inside, n, N: tl.constexpr):
    """silu(p * scale * gamma) into padded frames."""
    v = p * scale * tl.load(gamma + n, n < N, 0.0).to(tl.float32)[None, :]
    mask = inside[:, None] & (n < N)[None, :]
    tl.store(out + place + n[None, :], (v * tl.sigmoid(v)).to(out.dtype.element_ty), mask)


@triton.jit
def _finish(
    p, q, bias, residual, out, gamma, out_slots, t, H, W, m0, n0, dy, dx,
    N: tl.constexpr, UP: tl.constexpr, RESIDUAL: tl.constexpr, PADDED: tl.constexpr, NORM: tl.constexpr,
    BM: tl.constexpr, BN1: tl.constexpr, BN2: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """What follows the products, for one frame's tile."""
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
    p = _part(p, bias, residual, out, pixel, inside, n1, N, RESIDUAL, NORM)
    if SECOND:
        q = _part(q, bias, residual, out, pixel, inside, n2, N, RESIDUAL, NORM)
    if NORM:  # all of a pixel's channels are here: BN1 + BN2 >= N; those beyond N are zeros
        square = tl.sum(p * p, 1)
        if SECOND:
            square += tl.sum(q * q, 1)
        scale = tl.rsqrt(square / N + 1e-24)[:, None]
        place = pixel[:, None] * N
        _activate(p, scale, gamma, out, place, inside, n1, N)
        if SECOND:
            _activate(q, scale, gamma, out, place, inside, n2, N)


@triton.jit(do_not_specialize=["T", "H", "W", "start"])
def conv_kernel(
    source,  # descriptor of the padded frames as rows [frames * (H + 2) * (W + 2), C], block [BM, BK]
    weight,  # descriptor [UP^2 * N, KT * KH * KW * C], block [BN1, BK]
    weight2,  # the same with block [BN2, BK]
    slots,  # int32 [T + KT - 1]: where in `source` past and present frames lie
    bias,  # [N]
    residual,  # [T, UP * H, UP * W, N], added to the result
    out,  # [T, UP * H, UP * W, N], or with PADDED (and UP = 1) padded frames
    gamma,  # [N], with NORM: silu(norm(result)) is stored instead
    out_slots,  # int32 [T]: where those padded frames lie
    shortcut,  # [T', H, W, CHANNELS * N], with TIME: added to the result as `layers.add_duplicate_up` does it
    T, H, W,
    start,  # which of the TIME * T' frames that the shortcut becomes is the result's first
    C: tl.constexpr, N: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    UP: tl.constexpr,  # 2: phases of a nearest-2x upsampling folded into a 2x2 kernel
    RESIDUAL: tl.constexpr, PADDED: tl.constexpr, NORM: tl.constexpr,
    TIME: tl.constexpr, CHANNELS: tl.constexpr,
    F: tl.constexpr,  # 1, 2 or 4; divides T
    BM: tl.constexpr, BN1: tl.constexpr, BN2: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    SECOND: tl.constexpr = BN2 > 1
    BLOCKS: tl.constexpr = (C + BK - 1) // BK
    TAP: tl.constexpr = KH * KW * C  # weights of one kt
    # Neighbouring programs take the same place in all frames: they share most of what they read.
    t = tl.program_id(0) % (T // F) * F
    m0 = tl.program_id(0) // (T // F) * BM
    n0 = tl.program_id(1) * (BN1 + BN2 * SECOND)
    dy = tl.program_id(2) // UP
    dx = tl.program_id(2) % UP
    stride = W + 2
    frame = (H + 2) * stride
    m = m0 + dy * stride + dx
    if KH == 1:
        m += stride + 1  # it looks at its own pixel, not at the one above and to the left
    f0 = tl.load(slots + t) * frame + m
    if KT == 3:
        f1 = tl.load(slots + t + 1) * frame + m
        f2 = tl.load(slots + t + 2) * frame + m
        if F > 1:
            f3 = tl.load(slots + t + 3) * frame + m
        if F > 2:
            f4 = tl.load(slots + t + 4) * frame + m
            f5 = tl.load(slots + t + 5) * frame + m
    rows = tl.program_id(2) * N + n0
    p0 = tl.zeros((BM, BN1), tl.float32)
    q0 = tl.zeros((BM, BN2), tl.float32)
    p1, p2, p3, q1, q2, q3 = p0, p0, p0, q0, q0, q0
    if TIME:  # before there are products, because afterwards there are no registers left for it
        n1 = n0 + tl.arange(0, BN1)
        p0 = _duplicated(shortcut, start + t, H, W, m0, n1, dy, dx, N, UP, TIME, CHANNELS, BM)
        if SECOND:
            n2 = n0 + BN1 + tl.arange(0, BN2)
            q0 = _duplicated(shortcut, start + t, H, W, m0, n2, dy, dx, N, UP, TIME, CHANNELS, BM)
    if F == 1:  # every step has one tile of pixels and one of weights
        for i in tl.range(0, KT * KH * KW * BLOCKS, num_stages=STAGES):
            tap = i // BLOCKS
            c = (i % BLOCKS) * BK
            row = f0
            if KT == 3:
                row = tl.where(tap < KH * KW, f0, tl.where(tap < 2 * KH * KW, f1, f2))
            a = source.load([row + (tap // KW % KH) * stride + tap % KW, c])
            b0 = weight.load([rows, tap * C + c])
            c0 = b0
            if SECOND:
                c0 = weight2.load([rows + BN1, tap * C + c])
            p0, q0 = _add(a, b0, c0, p0, q0, SECOND)
    else:  # every step has one place of F + 2 frames, and of the weights all three times
        for i in tl.range(0, KH * KW * BLOCKS, num_stages=STAGES):
            tap = i // BLOCKS
            c = (i % BLOCKS) * BK
            shift = (tap // KW) * stride + tap % KW
            k = tap * C + c
            b0 = weight.load([rows, k])
            b1 = weight.load([rows, TAP + k])
            b2 = weight.load([rows, 2 * TAP + k])
            c0, c1, c2 = b0, b1, b2
            if SECOND:
                c0 = weight2.load([rows + BN1, k])
                c1 = weight2.load([rows + BN1, TAP + k])
                c2 = weight2.load([rows + BN1, 2 * TAP + k])
            a = source.load([f0 + shift, c])
            p0, q0 = _add(a, b0, c0, p0, q0, SECOND)
            a = source.load([f1 + shift, c])
            p0, q0 = _add(a, b1, c1, p0, q0, SECOND)
            p1, q1 = _add(a, b0, c0, p1, q1, SECOND)
            a = source.load([f2 + shift, c])
            p0, q0 = _add(a, b2, c2, p0, q0, SECOND)
            p1, q1 = _add(a, b1, c1, p1, q1, SECOND)
            if F > 2:
                p2, q2 = _add(a, b0, c0, p2, q2, SECOND)
            a = source.load([f3 + shift, c])
            p1, q1 = _add(a, b2, c2, p1, q1, SECOND)
            if F > 2:
                p2, q2 = _add(a, b1, c1, p2, q2, SECOND)
                p3, q3 = _add(a, b0, c0, p3, q3, SECOND)
                a = source.load([f4 + shift, c])
                p2, q2 = _add(a, b2, c2, p2, q2, SECOND)
                p3, q3 = _add(a, b1, c1, p3, q3, SECOND)
                a = source.load([f5 + shift, c])
                p3, q3 = _add(a, b2, c2, p3, q3, SECOND)
    _finish(p0, q0, bias, residual, out, gamma, out_slots, t, H, W, m0, n0, dy, dx,
            N, UP, RESIDUAL, PADDED, NORM, BM, BN1, BN2, SECOND)  # fmt: skip
    if F > 1:
        _finish(p1, q1, bias, residual, out, gamma, out_slots, t + 1, H, W, m0, n0, dy, dx,
                N, UP, RESIDUAL, PADDED, NORM, BM, BN1, BN2, SECOND)  # fmt: skip
    if F > 2:
        _finish(p2, q2, bias, residual, out, gamma, out_slots, t + 2, H, W, m0, n0, dy, dx,
                N, UP, RESIDUAL, PADDED, NORM, BM, BN1, BN2, SECOND)  # fmt: skip
        _finish(p3, q3, bias, residual, out, gamma, out_slots, t + 3, H, W, m0, n0, dy, dx,
                N, UP, RESIDUAL, PADDED, NORM, BM, BN1, BN2, SECOND)  # fmt: skip
