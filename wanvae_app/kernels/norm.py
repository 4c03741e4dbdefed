"""Norm and SiLU of each pixel, or nothing at all, written into the padded frames that a convolution reads.

Where the picture is cut and ranks reach each other's memory, the same launch exchanges the edges, in the manner of
`halo.py`: its first programs make and send them, some of its last take what has come meanwhile into the borders. The
plain equal of that is `Shard.fill_halo` afterwards.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wanvae_app.kernels.halo import wait


def receive_after(programs: int) -> int:
    """Index of the first receiving program among so many that compute pixels: late enough to find its rows arrived,
    early enough to overlap with computing programs."""
    return programs - programs // 4


@triton.jit
def silu_norm(x, gamma, mask, C: tl.constexpr):
    """Pixels at x as `layers.PixelNorm` norms them, then SiLU."""
    v = tl.load(x, mask, 0.0).to(tl.float32)
    v = v * tl.rsqrt(tl.sum(v * v, 1) / C + 1e-24)[:, None] * gamma
    return v * tl.sigmoid(v)


@triton.jit
def _pixels(x, gamma, pixel, inside, C: tl.constexpr, NORM: tl.constexpr, BN: tl.constexpr):
    """Those pixels of x, which are `inside`, normed or as they are."""
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
    """The p-th part of `count` pixels at an edge, `length` in each frame, to a neighbour; and a flag behind it."""
    c = tl.arange(0, BN)[None, :]
    out = tl.multiple_of(out, 16)
    for start in range(p * BM, count, programs * BM):
        i = start + tl.arange(0, BM)
        v = _pixels(x, gamma, i // length * frame + first + i % length * step, i < count, C, NORM, BN)
        tl.store(out + i[:, None] * N + c, v.to(out.dtype.element_ty), (i < count)[:, None] & (c < N))
    tl.debug_barrier()
    tl.atomic_xchg(out_flags + p, 1, sem="release", scope="sys")


@triton.jit
def _receive(
    into, slots, p, programs, count, length, frame, first, step, came, came_flags, abort, waited,
    N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    """And the p-th part of those that a neighbour sends, when it is there, into a border."""
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
def line(H, W, CUT: tl.constexpr):
    """Of an edge, in pixels: how long it is, from one to the next, and where the last edge of a frame begins; and of a
    border of padded frames: where the first one begins, from one to the next, and where the last one begins."""
    stride = W + 2
    if CUT == 1:
        return W, 1, (H - 1) * W, 1, 1, (H + 1) * stride + 1
    else:
        return H, W, W - 1, stride, stride, stride + W + 1


@triton.jit(do_not_specialize=["T", "H", "W", "edges", "first"])
def norm_kernel(
    x,  # [T, H, W, C]
    gamma,  # [C]
    into,  # padded frames [frames, H + 2, W + 2, N]; N may be more than C, and the rest becomes zeros
    into_slots,  # int32 [T]
    T, H, W,
    edges,  # programs that send to each neighbour, the first ones of all, and that receive
    first,  # how many programs make pixels before those that receive (see `receive_after`)
    C: tl.constexpr, N: tl.constexpr, NORM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    CUT: tl.constexpr,  # 0: the picture is not cut, or others see to its borders; 1: along its rows; 2: its columns
    # The rest only with CUT, and as `halo_kernel`.
    out_before=None, out_after=None, out_before_flags=None, out_after_flags=None,
    came_before=None, came_after=None, came_before_flags=None, came_after_flags=None, abort=None, waited=None,
    BEFORE: tl.constexpr = False, AFTER: tl.constexpr = False, TIMED: tl.constexpr = False,
):  # fmt: skip
    p = tl.program_id(0) - 2 * edges
    tiles = tl.cdiv(H * W, BM)
    stride = W + 2
    frame = (H + 2) * stride
    inside = p  # which part of the pixels; none for those that send or receive
    if CUT:
        length, step, final, start, across, behind = line(H, W, CUT)
        q = p - first
        inside = tl.where(q < 0, p, tl.where(q < 2 * edges, -1, p - 2 * edges))
        if BEFORE:
            if p < -edges:
                _send(x, gamma, p + 2 * edges, edges, T * length, length, H * W, 0, step,
                      out_before.to(into.dtype), out_before_flags, C, N, NORM, BM, BN)  # fmt: skip
            if (q >= 0) & (q < edges):
                _receive(into, into_slots, q, edges, T * length, length, frame, start, across,
                         came_before.to(into.dtype), came_before_flags, abort, waited,
                         N, BM, BN, TIMED)  # fmt: skip
        if AFTER:
            if (p >= -edges) & (p < 0):
                _send(x, gamma, p + edges, edges, T * length, length, H * W, final, step,
                      out_after.to(into.dtype), out_after_flags, C, N, NORM, BM, BN)  # fmt: skip
            if (q >= edges) & (q < 2 * edges):
                _receive(into, into_slots, q - edges, edges, T * length, length, frame, behind, across,
                         came_after.to(into.dtype), came_after_flags, abort, waited + 1,
                         N, BM, BN, TIMED)  # fmt: skip
    if inside >= 0:
        t = inside // tiles
        m = inside % tiles * BM + tl.arange(0, BM)
        c = tl.arange(0, BN)[None, :]
        v = _pixels(x, gamma, t * (H * W) + m, m < H * W, C, NORM, BN)
        place = tl.load(into_slots + t).to(tl.int64) * frame + (m // W + 1) * stride + m % W + 1
        tl.store(into + place[:, None] * N + c, v.to(into.dtype.element_ty), (m < H * W)[:, None] & (c < N))


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
