"""Norm and SiLU of each pixel, or the pixel as it is, written into the padded frames that a convolution reads.

Where the picture is cut and ranks reach each other's memory, the same launch exchanges the edges, in the manner of
`halo.py`. Its first programs make the edge pixels once more and send them. Some of its last programs write what has
come meanwhile into the borders. The plain equals are `model.layers.PixelNorm` and `Shard.fill_halo`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from wanvae_app.kernels.halo import wait
from wanvae_app.kernels.launch import launch
from wanvae_app.kernels.mailbox import Neighbours
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots


def receive_after(programs: int) -> int:
    """Return the index of the first receiving program among `programs` that compute pixels.

    It is late enough to find its rows arrived, and early enough to overlap with computing programs.
    """
    return programs - programs // 4


@triton.jit
def silu_norm(x, gamma, mask, C: tl.constexpr):
    """Return silu(norm(x)) in float32 of pixels [BM, BN] at pointers x; the norm is `model.layers.PixelNorm`."""
    v = tl.load(x, mask, 0.0).to(tl.float32)
    v = v * tl.rsqrt(tl.sum(v * v, 1) / C + 1e-24)[:, None] * gamma
    return v * tl.sigmoid(v)


@triton.jit
def _load(x, gamma, pixel, inside, C: tl.constexpr, NORM: tl.constexpr, BN: tl.constexpr):
    """Return pixels [BM, BN] of x [pixels, C], whose indices are `pixel` [BM], behind norm and SiLU or as they are.

    Pixels that are not `inside` and channels from C on are zeros.
    """
    c = tl.arange(0, BN)[None, :]
    at = x + pixel.to(tl.int64)[:, None] * C + c
    inside = inside[:, None] & (c < C)
    if NORM:
        return silu_norm(at, tl.load(gamma + c, c < C, 0.0).to(tl.float32), inside, C)
    else:
        return tl.load(at, inside, 0.0)


@triton.jit
def _send(
    x, gamma, p, programs, count, length, frame, first, step, out, out_flags,
    C: tl.constexpr, N: tl.constexpr, NORM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Send part p of `programs` of an edge to a neighbour, and raise the flag of this part.

    The edge has `count` pixels, `length` in each frame of `frame` pixels: pixel i of a frame is `first` + i `step`.
    """
    c = tl.arange(0, BN)[None, :]
    out = tl.multiple_of(out, 16)
    for start in range(p * BM, count, programs * BM):
        i = start + tl.arange(0, BM)
        v = _load(x, gamma, i // length * frame + first + i % length * step, i < count, C, NORM, BN)
        tl.store(out + i[:, None] * N + c, v.to(out.dtype.element_ty), (i < count)[:, None] & (c < N))
    tl.debug_barrier()
    tl.atomic_xchg(out_flags + p, 1, sem="release", scope="sys")


@triton.jit
def _receive(
    into, slots, p, programs, count, length, frame, first, step, came, came_flags, abort, waited,
    N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    """Wait for part p of `programs` of a neighbour's edge, and write it into a border of the frames in `slots`.

    The border's pixels are counted as `_send` counts those of an edge, in padded frames of `frame` pixels.
    """
    c = tl.arange(0, BN)[None, :]
    came = tl.multiple_of(came, 16)
    wait(came_flags + p, abort, waited, p == 0, TIMED)
    for start in range(p * BM, count, programs * BM):
        i = start + tl.arange(0, BM)
        mask = (i < count)[:, None] & (c < N)
        v = tl.load(came + i[:, None] * N + c, mask, volatile=True)
        slot = tl.load(slots + i // length, i < count, 0).to(tl.int64)
        tl.store(into + (slot * frame + first + i % length * step)[:, None] * N + c, v, mask)


@triton.jit
def edge_pixels(H, W, CUT: tl.constexpr):
    """Return of a picture's two edges along the cut, in pixels of a frame: length, step, first pixel of the last edge.

    The first edge begins with pixel 0.
    """
    if CUT == 1:
        return W, 1, (H - 1) * W
    else:
        return H, W, W - 1


@triton.jit
def border_pixels(H, W, CUT: tl.constexpr):
    """Return of a padded frame's two borders along the cut: first pixel, step, first pixel of the last border.

    Borders are as long as edges: they have no corners.
    """
    stride = W + 2
    if CUT == 1:
        return 1, 1, (H + 1) * stride + 1
    else:
        return stride, stride, stride + W + 1


@triton.jit(do_not_specialize=["T", "H", "W", "senders", "first_receiver"])
def norm_kernel(
    x,  # [T, H, W, C]
    gamma,  # [C]; not read without NORM
    into,  # padded frames [slots, H + 2, W + 2, N]; N may be more than C, and the rest becomes zeros
    into_slots,  # int32 [T]
    T, H, W,
    senders,  # programs that send to each neighbour; as many receive from it
    first_receiver,  # programs that compute pixels ahead of those that receive: see `receive_after`
    C: tl.constexpr, N: tl.constexpr,
    NORM: tl.constexpr,  # whether to write silu(norm(x)), or x itself
    BM: tl.constexpr,  # pixels that a program computes at a time
    BN: tl.constexpr,  # a power of two, at least N
    CUT: tl.constexpr,  # 0: this launch exchanges nothing; 1: the picture is cut along its rows; 2: along its columns
    # With CUT the arguments of `halo_kernel` of these names. Messages hold pixels of `into`'s type.
    out_before=None, out_after=None, out_before_flags=None, out_after_flags=None,
    came_before=None, came_after=None, came_before_flags=None, came_after_flags=None, abort=None, waited=None,
    BEFORE: tl.constexpr = False, AFTER: tl.constexpr = False, TIMED: tl.constexpr = False,
):  # fmt: skip
    """Programs, in order: 2 `senders` send, `first_receiver` compute, 2 `senders` receive, the rest compute.

    T ceil(H W / BM) compute in all.
    """
    p = tl.program_id(0) - 2 * senders  # negative: it sends
    tiles = tl.cdiv(H * W, BM)
    stride = W + 2
    frame = (H + 2) * stride
    part = p  # index of the pixels that it computes; negative for none
    if CUT:
        length, step, last_edge = edge_pixels(H, W, CUT)
        first_border, border_step, last_border = border_pixels(H, W, CUT)
        q = p - first_receiver  # 0 to 2 * senders - 1: it receives
        part = tl.where(q < 0, p, tl.where(q < 2 * senders, -1, p - 2 * senders))
        if BEFORE:
            if p < -senders:
                _send(x, gamma, p + 2 * senders, senders, T * length, length, H * W, 0, step,
                      out_before.to(into.dtype), out_before_flags, C, N, NORM, BM, BN)  # fmt: skip
            if (q >= 0) & (q < senders):
                _receive(into, into_slots, q, senders, T * length, length, frame, first_border, border_step,
                         came_before.to(into.dtype), came_before_flags, abort, waited,
                         N, BM, BN, TIMED)  # fmt: skip
        if AFTER:
            if (p >= -senders) & (p < 0):
                _send(x, gamma, p + senders, senders, T * length, length, H * W, last_edge, step,
                      out_after.to(into.dtype), out_after_flags, C, N, NORM, BM, BN)  # fmt: skip
            if (q >= senders) & (q < 2 * senders):
                _receive(into, into_slots, q - senders, senders, T * length, length, frame, last_border, border_step,
                         came_after.to(into.dtype), came_after_flags, abort, waited + 1,
                         N, BM, BN, TIMED)  # fmt: skip
    if part >= 0:
        t = part // tiles
        m = part % tiles * BM + tl.arange(0, BM)
        c = tl.arange(0, BN)[None, :]
        v = _load(x, gamma, t * (H * W) + m, m < H * W, C, NORM, BN)
        at = tl.load(into_slots + t).to(tl.int64) * frame + (m // W + 1) * stride + m % W + 1
        tl.store(into + at[:, None] * N + c, v.to(into.dtype.element_ty), (m < H * W)[:, None] & (c < N))


def activate(
    x: Tensor,
    gamma: Tensor | None,
    into: PaddedFrames,
    slots: Slots,
    neighbours: Neighbours | None = None,
) -> None:
    """Write silu(norm(x)), or without `gamma` [C] x itself, of [T, H, W, C] into padded frames.

    Channels that only the frames have become zeros. With `neighbours` the same launch exchanges edges with them.
    """
    num_frames, height, width, c = x.shape
    n = into.data.shape[3]
    assert x.is_contiguous() and c <= n, (x.shape, x.stride(), n)
    block = triton.next_power_of_2(n)
    pixels = max(1, 4096 // block)
    cut = senders = 0
    exchange = neighbours.arguments if neighbours is not None else {}
    if neighbours is not None and exchange:
        cut, length = (2, height) if neighbours.columns else (1, width)
        senders = min(neighbours.programs, triton.cdiv(num_frames * length, pixels))
    programs = num_frames * triton.cdiv(height * width, pixels)
    launch(
        norm_kernel, (4 * senders + programs,),
        x, x if gamma is None else gamma, into.data, into.table(slots), num_frames, height, width,
        senders, receive_after(programs), c, n, NORM=gamma is not None, BM=pixels, BN=block, CUT=cut, **exchange,
        num_warps=4,
    )  # fmt: skip
