"""Causal 3x3x3 convolutions as 27 shifted matrix products, with what follows them done in registers.

The input lies in padded frames, channels last (see `padded_frames.py`). Flatten their pixels to rows of C numbers: then
what one tap of the convolution reads of a whole frame is one matrix, shifted by some rows. So the convolution is a sum
of matrix products that read the same memory, and nothing is unfolded.

A program computes the same pixels of F frames: then a tile that it fetches serves up to three of them. Bias, residual,
norm and SiLU are applied before the result is stored. A shortcut around an upsampling level is what the sum begins
with. The plain equals are `model.layers.CausalConv3d` and `Upsample`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from wanvae_app.kernels.direct_results import load_shortcut, store_results
from wanvae_app.kernels.launch import launch
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.kernels.shortcut import Shortcut
from wanvae_app.kernels.tiles import Tile, choose_tile, count_multiprocessors


@triton.jit
def _multiply_add(a, b, c, p, q, SECOND: tl.constexpr):
    """Return p + a b^T for the first part of the channels, and q + a c^T for the second part if there is one."""
    p = tl.dot(a, b.T, p)
    if SECOND:
        q = tl.dot(a, c.T, q)
    return p, q


@triton.jit(do_not_specialize=["T", "H", "W", "first_frame"])
def conv_kernel(
    source,  # descriptor of padded frames as rows [slots * (H + 2) * (W + 2), C], block [BM, BK]
    weight,  # descriptor [UP^2 * N, KT * KH * KW * C], block [BN1, BK]
    weight2,  # the same with block [BN2, BK]
    slots,  # int32 [T + KT - 1]: of past and present frames
    bias,  # [N]
    residual,  # [T, UP * H, UP * W, N], with RESIDUAL: added to the result
    out,  # [T, UP * H, UP * W, N]; with PADDED (and UP = 1) padded frames [slots, H + 2, W + 2, N]
    gamma,  # [N], with NORM: silu(norm(result)) is stored instead
    out_slots,  # int32 [T], with PADDED
    shortcut,  # [T', H, W, CHANNELS_PER_OUTPUT * N], with TIME_FACTOR: see `shortcut.py`
    T, H, W,
    first_frame,  # index of the result's first frame among the TIME_FACTOR * T' that the shortcut becomes
    C: tl.constexpr, N: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    UP: tl.constexpr,  # 2: an upsampling is folded into the weights of four phases (`packed_weights.fold_upsampling`)
    RESIDUAL: tl.constexpr, PADDED: tl.constexpr, NORM: tl.constexpr,
    TIME_FACTOR: tl.constexpr,  # 0: there is no shortcut
    CHANNELS_PER_OUTPUT: tl.constexpr,
    F: tl.constexpr,  # frames of a tile: 1, 2 or 4; divides T
    BM: tl.constexpr,  # pixels of a tile in each frame, counted in rows of W + 2
    BN1: tl.constexpr, BN2: tl.constexpr,  # channels out of a tile, in two parts; BN2 is 1 for no second part
    BK: tl.constexpr,  # channels in per step
    STAGES: tl.constexpr,  # steps whose inputs are fetched ahead
):  # fmt: skip
    """Programs: (T / F * ceil(H (W + 2) / BM), ceil(N / (BN1 + BN2)), UP^2 phases).

    p0 to p3 are the sums of the F frames for the first part of the channels, q0 to q3 for the second part. f0 to f5 are
    the rows of `source` at which the tile begins in F + KT - 1 frames. a is a tile of pixels; b0 to b2 are weights of
    the first part for the taps of one pixel in time, c0 to c2 of the second part.
    """
    SECOND: tl.constexpr = BN2 > 1
    STEPS: tl.constexpr = (C + BK - 1) // BK  # of a tap
    TAP: tl.constexpr = KH * KW * C  # columns of `weight` for one of KT
    # Neighbouring programs compute the same pixels of all frames: they share most of what they read.
    t = tl.program_id(0) % (T // F) * F
    m0 = tl.program_id(0) // (T // F) * BM
    n0 = tl.program_id(1) * (BN1 + BN2 * SECOND)
    dy = tl.program_id(2) // UP
    dx = tl.program_id(2) % UP
    stride = W + 2
    frame = (H + 2) * stride
    m = m0 + dy * stride + dx
    if KH == 1:
        m += stride + 1  # the pixel itself, not the one above and to the left of it
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
    if TIME_FACTOR:  # before the products, because afterwards there are no registers left for it
        n1 = n0 + tl.arange(0, BN1)
        p0 = load_shortcut(shortcut, first_frame + t, H, W, m0, n1, dy, dx,
                           N, UP, TIME_FACTOR, CHANNELS_PER_OUTPUT, BM)  # fmt: skip
        if SECOND:
            n2 = n0 + BN1 + tl.arange(0, BN2)
            q0 = load_shortcut(shortcut, first_frame + t, H, W, m0, n2, dy, dx,
                               N, UP, TIME_FACTOR, CHANNELS_PER_OUTPUT, BM)  # fmt: skip
    if F == 1:  # a step is one tap: one tile of pixels and one of weights
        for i in tl.range(0, KT * KH * KW * STEPS, num_stages=STAGES):
            tap = i // STEPS
            c = (i % STEPS) * BK
            row = f0
            if KT == 3:
                row = tl.where(tap < KH * KW, f0, tl.where(tap < 2 * KH * KW, f1, f2))
            a = source.load([row + (tap // KW % KH) * stride + tap % KW, c])
            b0 = weight.load([rows, tap * C + c])
            c0 = b0
            if SECOND:
                c0 = weight2.load([rows + BN1, tap * C + c])
            p0, q0 = _multiply_add(a, b0, c0, p0, q0, SECOND)
    else:  # a step is three taps, one after another in time: F + 2 frames' tiles of pixels and three of weights
        for i in tl.range(0, KH * KW * STEPS, num_stages=STAGES):
            tap = i // STEPS
            c = (i % STEPS) * BK
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
            p0, q0 = _multiply_add(a, b0, c0, p0, q0, SECOND)
            a = source.load([f1 + shift, c])
            p0, q0 = _multiply_add(a, b1, c1, p0, q0, SECOND)
            p1, q1 = _multiply_add(a, b0, c0, p1, q1, SECOND)
            a = source.load([f2 + shift, c])
            p0, q0 = _multiply_add(a, b2, c2, p0, q0, SECOND)
            p1, q1 = _multiply_add(a, b1, c1, p1, q1, SECOND)
            if F > 2:
                p2, q2 = _multiply_add(a, b0, c0, p2, q2, SECOND)
            a = source.load([f3 + shift, c])
            p1, q1 = _multiply_add(a, b2, c2, p1, q1, SECOND)
            if F > 2:
                p2, q2 = _multiply_add(a, b1, c1, p2, q2, SECOND)
                p3, q3 = _multiply_add(a, b0, c0, p3, q3, SECOND)
                a = source.load([f4 + shift, c])
                p2, q2 = _multiply_add(a, b2, c2, p2, q2, SECOND)
                p3, q3 = _multiply_add(a, b1, c1, p3, q3, SECOND)
                a = source.load([f5 + shift, c])
                p3, q3 = _multiply_add(a, b2, c2, p3, q3, SECOND)
    store_results(p0, q0, bias, residual, out, gamma, out_slots, t, H, W, m0, n0, dy, dx,
                  N, UP, RESIDUAL, PADDED, NORM, BM, BN1, BN2, SECOND)  # fmt: skip
    if F > 1:
        store_results(p1, q1, bias, residual, out, gamma, out_slots, t + 1, H, W, m0, n0, dy, dx,
                      N, UP, RESIDUAL, PADDED, NORM, BM, BN1, BN2, SECOND)  # fmt: skip
    if F > 2:
        store_results(p2, q2, bias, residual, out, gamma, out_slots, t + 2, H, W, m0, n0, dy, dx,
                      N, UP, RESIDUAL, PADDED, NORM, BM, BN1, BN2, SECOND)  # fmt: skip
        store_results(p3, q3, bias, residual, out, gamma, out_slots, t + 3, H, W, m0, n0, dy, dx,
                      N, UP, RESIDUAL, PADDED, NORM, BM, BN1, BN2, SECOND)  # fmt: skip


def direct_conv(
    weight: Tensor,
    bias: Tensor,
    taps: tuple[int, int, int],
    frames: PaddedFrames,
    slots: Slots,
    residual: Tensor | None = None,
    gamma: Tensor | None = None,
    into: tuple[PaddedFrames, Slots] | None = None,
    up: int = 1,
    tile: Tile | None = None,
    in_place: bool = False,
    shortcut: Shortcut | None = None,
) -> Tensor:
    """Convolve padded frames: return T frames [T, up H, up W, N] in the dtype of `bias` [N].

    `taps` are kt, kh, kw. `weight` is [up^2 N, kt kh kw C], or such columns of a wider matrix. `slots` name kt - 1 past
    and T present frames. Frames and weights may be fp16 in a bf16 model.

    `residual` [T, up H, up W, N] is added. With `in_place` the sum is written over it: the program that stores a number
    has read it before, and no other program reads it.

    With up = 1 the result can be written `into` slots of padded frames, whose data is returned; with `gamma` [N], for N
    that `fits_one_tile`, as silu(norm(result)). With up = 2 a `shortcut` can be added.
    """
    kt, kh, kw = taps
    data = frames.data
    _, rows, columns, c = data.shape
    height, width, n, num_frames = rows - 2, columns - 2, bias.shape[0], len(slots) - kt + 1
    num_pixels = height * columns
    tile = tile or choose_tile(
        c, n, num_frames, num_pixels, residual is not None, count_multiprocessors(data.device)
    )
    frames_per_tile = math.gcd(tile.frames, num_frames) if kt == 3 else 1
    if in_place:
        assert residual is not None and residual.dtype == bias.dtype and residual.is_contiguous() and not into
        out = residual
    elif into:
        out = into[0].data
    else:
        shape = num_frames, up * height, up * width, n
        out = torch.empty(shape, dtype=bias.dtype, device=data.device)
    added = shortcut or Shortcut(bias[None], 0, 0)
    if shortcut is not None:
        assert up == 2 and kt == 1, (up, taps)
        shortcut.check(num_frames, height, width, n)
    source = TensorDescriptor(data, [data.shape[0] * rows * columns, c], [c, 1], [tile.pixels, tile.depth])
    weights = [  # without second channels the second one is not read
        TensorDescriptor(weight, list(weight.shape), list(weight.stride()), [channels, tile.depth])
        for channels in (tile.first_channels, tile.second_channels or 16)
    ]
    grid = (
        num_frames // frames_per_tile * triton.cdiv(num_pixels, tile.pixels),
        triton.cdiv(n, tile.channels),
        up * up,
    )
    table = frames.table(slots)
    launch(
        conv_kernel, grid,
        source, *weights, table, bias, bias if residual is None else residual, out,
        bias if gamma is None else gamma, into[0].table(into[1]) if into else table, added.pixels,
        num_frames, height, width, added.first_frame, c, n, kt, kh, kw, up,
        RESIDUAL=residual is not None, PADDED=into is not None, NORM=gamma is not None,
        TIME_FACTOR=added.time_factor, CHANNELS_PER_OUTPUT=added.pixels.shape[-1] // n,
        F=frames_per_tile, BM=tile.pixels, BN1=tile.first_channels, BN2=tile.second_channels or 1,
        BK=tile.depth, STAGES=tile.stages, num_warps=tile.warps,
        **({"maxnreg": tile.max_registers} if tile.max_registers else {}),
    )  # fmt: skip
    return out
