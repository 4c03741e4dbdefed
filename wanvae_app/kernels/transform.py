"""Frames as `winograd.cu` reads them for four at a time: norm, SiLU and the transform of F(4, 3) along time.

Of four frames in, d2 to d5, and the two before, d0 and d1, it makes what the six products multiply. Frames are not kept
for it, but for the last two. Where the picture is cut, rows travel as they are, four and not six: as in `norm.py` the
first programs make and send a rank's own, in frames of the type that is multiplied, and late ones make the borders of
what came meanwhile. Without a link these are two launches, and messages between them.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanvae_app.kernels.halo import wait
from wanvae_app.kernels.mailbox import PROGRAMS, Neighbours
from wanvae_app.kernels.norm import line, receive_after, silu_norm
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.kernels.winograd import POINTS, num_products


@triton.jit
def _normed(x, gamma, mask, DTYPE: tl.constexpr, C: tl.constexpr):
    """silu(norm(x)), rounded as it would be in frames of that type."""
    return silu_norm(x, gamma, mask, C).to(DTYPE)


@triton.jit
def _read(x, gamma, mask, DTYPE: tl.constexpr, NORM: tl.constexpr, C: tl.constexpr):
    """The same; or x, which is so already, and which others may have written a moment ago."""
    if NORM:
        return _normed(x, gamma, mask, DTYPE, C).to(tl.float32)
    else:
        return tl.load(x, mask, 0.0, volatile=True).to(tl.float32)


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


@triton.jit
def _transform(
    x, step, gamma, frames, slots, frame, place, mask, T,
    NORM: tl.constexpr, C: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Pixels at x, from frame to frame `step` further, to one place of the frames in `slots`."""
    DTYPE: tl.constexpr = frames.dtype.element_ty
    past = frames + place
    d0 = tl.load(past + tl.load(slots).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    d1 = tl.load(past + tl.load(slots + 1).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    slots += 2
    for _ in range(0, T, 4):
        d2 = _read(x, gamma, mask, DTYPE, NORM, C)
        d3 = _read(x + step, gamma, mask, DTYPE, NORM, C)
        d4 = _read(x + 2 * step, gamma, mask, DTYPE, NORM, C)
        _put_products(frames, slots, frame, place, d0, d1, d2, d3, d4, mask, A, B)
        d5 = _read(x + 3 * step, gamma, mask, DTYPE, NORM, C)
        _put_last_product(frames, slots, frame, place, d1, d3, d5, mask, A, B)
        d0 = d4
        d1 = d5
        slots += 6
        x += 4 * step
    _put(frames, slots, frame, place, d0, mask)
    _put(frames, slots + 1, frame, place, d1, mask)


@triton.jit
def _send(
    x, gamma, p, programs, T, length, frame, first, step, out, out_flags,
    C: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The p-th part of the pixels at an edge, `length` in each frame, to a neighbour: of each all T frames, one after
    another; and a flag behind them."""
    t = tl.arange(0, 4)[:, None]
    c = tl.arange(0, BC)[None, :]
    out = tl.multiple_of(out, 16)
    mask = (t >= 0) & (c < C)  # of four frames at a time
    for i in range(p, length, programs):
        for start in range(0, T, 4):
            pixel = ((start + t) * frame + first + i * step).to(tl.int64)
            v = _normed(x + pixel * C + c, gamma, mask, out.dtype.element_ty, C)
            tl.store(out + (i * T + start + t) * C + c, v, mask)
    tl.debug_barrier()
    tl.atomic_xchg(out_flags + p, 1, sem="release", scope="sys")


@triton.jit
def _receive(
    frames, slots, p, programs, T, length, frame, first, step, came, came_flags, abort, waited,
    C: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BC: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    """And the p-th part of those that a neighbour sends, when it is there, into a border."""
    c = tl.arange(0, BC)[None, :]
    came = tl.multiple_of(came, 16)
    wait(came_flags + p, abort, waited, p == 0, TIMED)
    for i in range(p, length, programs):
        place = (first + i * step) * C + c
        _transform(came + i * T * C + c, C, came, frames, slots, frame, place, c < C, T, False, C, A, B)


@triton.jit(do_not_specialize=["T", "H", "W", "edges", "first", "begin"])
def transform_kernel(
    x,  # [T, H, W, C], four frames after four frames
    gamma,  # [C]
    frames,  # padded frames [frames, H + 2, W + 2, C]
    slots,  # int32: of 2 past frames, of T / 4 * 6 for products, and of the last two frames
    T, H, W,
    edges,  # programs that send to each neighbour, the first ones of all, and that receive
    first,  # how many programs make pixels before those that receive (see `norm.receive_after`)
    begin,  # the number of the first program of this launch
    C: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
    CUT: tl.constexpr,  # 0: the picture is not cut; 1: along its rows; 2: along its columns
    # The rest only with CUT, and as `halo_kernel`.
    out_before=None, out_after=None, out_before_flags=None, out_after_flags=None,
    came_before=None, came_after=None, came_before_flags=None, came_after_flags=None, abort=None, waited=None,
    BEFORE: tl.constexpr = False, AFTER: tl.constexpr = False, TIMED: tl.constexpr = False,
):  # fmt: skip
    p = tl.program_id(0) + begin - 2 * edges
    inside = p  # which part of the pixels; none for those that send or receive
    stride = W + 2
    frame = ((H + 2) * stride).to(tl.int64) * C
    c = tl.arange(0, BC)[None, :]
    weight = tl.load(gamma + c, c < C, 0.0).to(tl.float32)
    if CUT:
        length, step, final, start, across, behind = line(H, W, CUT)
        q = p - first
        inside = tl.where(q < 0, p, tl.where(q < 2 * edges, -1, p - 2 * edges))
        if BEFORE:
            if p < -edges:
                _send(x, weight, p + 2 * edges, edges, T, length, H * W, 0, step,
                      out_before.to(frames.dtype), out_before_flags, C, BC)  # fmt: skip
            if (q >= 0) & (q < edges):
                _receive(frames, slots, q, edges, T, length, frame, start, across,
                         came_before.to(frames.dtype), came_before_flags, abort, waited,
                         C, A, B, BC, TIMED)  # fmt: skip
        if AFTER:
            if (p >= -edges) & (p < 0):
                _send(x, weight, p + edges, edges, T, length, H * W, final, step,
                      out_after.to(frames.dtype), out_after_flags, C, BC)  # fmt: skip
            if (q >= edges) & (q < 2 * edges):
                _receive(frames, slots, q - edges, edges, T, length, frame, behind, across,
                         came_after.to(frames.dtype), came_after_flags, abort, waited + 1,
                         C, A, B, BC, TIMED)  # fmt: skip
    if inside >= 0:
        m = inside * BM + tl.arange(0, BM)
        mask = (m < H * W)[:, None] & (c < C)
        place = ((m // W + 1) * stride + m % W + 1)[:, None] * C + c
        _transform(x + m.to(tl.int64)[:, None] * C + c, (H * W).to(tl.int64) * C, weight,
                   frames, slots, frame, place, mask, T, True, C, A, B)  # fmt: skip


def transform(
    x: Tensor, gamma: Tensor, into: PaddedFrames, slots: Slots, neighbours: Neighbours | None = None
) -> None:
    """Write silu(norm(x)) of [T, H, W, C] into padded frames as `winograd_conv` reads it for four frames at a time.

    `slots` are those of the two frames before, of what the products multiply (see `winograd.cu`), and of the last two
    frames as they are. With `neighbours` the same launch exchanges edge rows with them and transforms what came into
    the borders, while it writes the rest.
    """
    if neighbours is None or not neighbours.arguments:
        _launch(x, gamma, into, slots)
        return
    edges = min(neighbours.programs, _edge_length(x, neighbours.columns))
    _launch(x, gamma, into, slots, _cut(neighbours.columns), edges, **neighbours.arguments)


class TransformByMessage:
    """The same where rows travel as messages: `start` writes the picture and returns its edges, `finish` the borders.

    `before` and `after` say whether there is a neighbour before and one behind.
    """

    def __init__(
        self,
        x: Tensor,
        gamma: Tensor,
        into: PaddedFrames,
        slots: Slots,
        columns: bool,
        before: bool,
        after: bool,
    ) -> None:
        self._what = x, gamma, into, slots
        self._columns = columns
        self._sides = {"BEFORE": before, "AFTER": after}

    def start(self) -> tuple[Tensor, Tensor]:
        """Write all but the borders; returns the first and the last row (or column) of the picture, each
        [length, T, C] in the frames' dtype, to be sent."""
        x, _, into, _ = self._what
        length = _edge_length(x, self._columns)
        mine = torch.empty(2, length, len(x), x.shape[3], dtype=into.data.dtype, device=x.device)
        self._run(_Part.ALL_BUT_RECEIVING, mine[0], mine[1])
        return mine[0], mine[1]

    def finish(self, above: Tensor, below: Tensor) -> None:
        """Write the borders from what the neighbours sent, in the shapes that `start` returned."""
        self._run(_Part.RECEIVING, above, below)

    def _run(self, part: _Part, first: Tensor, final: Tensor) -> None:
        x, gamma, into, slots = self._what
        edges = min(PROGRAMS, _edge_length(x, self._columns))
        raised = torch.ones(2, edges, dtype=torch.int32, device=x.device)  # flags for which nobody waits
        never = torch.zeros(1, dtype=torch.int32, device=x.device)
        there: dict[str, Any] = {"abort": never, "waited": never, **self._sides}
        for flags, side, rows in zip(raised, ("before", "after"), (first, final), strict=True):
            there |= {f"{way}_{side}_flags": flags for way in ("out", "came")}
            there |= {f"{way}_{side}": rows.view(torch.int64) for way in ("out", "came")}
        _launch(x, gamma, into, slots, _cut(self._columns), edges, part, **there)


class _Part(Enum):
    """Which of the kernel's programs a launch has: those that send come first, those that receive last."""

    ALL = "receive while others compute"
    ALL_BUT_RECEIVING = "send and compute"
    RECEIVING = "receive"


def _launch(
    x: Tensor,
    gamma: Tensor,
    into: PaddedFrames,
    slots: Slots,
    cut: int = 0,
    edges: int = 0,
    part: _Part = _Part.ALL,
    **there: Any,
) -> None:
    """Launch the kernel, or a part of its programs; `edges` of them send to each neighbour and as many receive."""
    num_frames, height, width, c = x.shape
    assert x.is_contiguous() and c == into.data.shape[3] and num_frames % 4 == 0, (x.shape, x.stride())
    assert len(slots) == 4 + num_products(num_frames), (len(slots), num_frames)
    assert into.data.stride(0) < 2**31, "places in a frame are counted in 32 bits"
    if x.is_meta:
        return
    width_of_tile = triton.next_power_of_2(c)
    pixels = max(1, 512 // width_of_tile)
    tiles = triton.cdiv(height * width, pixels)
    first = receive_after(tiles) if part == _Part.ALL else tiles
    begin = tiles + 2 * edges if part == _Part.RECEIVING else 0
    end = tiles + (2 if part == _Part.ALL_BUT_RECEIVING else 4) * edges
    transform_kernel[(end - begin,)](
        x, gamma, into.data, into.table(slots), num_frames, height, width, edges, first, begin,
        c, POINTS[0], POINTS[1], BM=pixels, BC=width_of_tile, CUT=cut, **there,
        num_warps=max(1, width_of_tile // 512),
    )  # fmt: skip


def _edge_length(x: Tensor, columns: bool) -> int:
    return x.shape[1] if columns else x.shape[2]


def _cut(columns: bool) -> int:
    return 2 if columns else 1
