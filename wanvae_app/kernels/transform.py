"""Norm, SiLU and the transform of F(4, 3) along time: writes frames as `winograd.cu` reads them for four at a time.

For each four frames d2 to d5, and d0 and d1 before them, six transformed frames are made, which the six products
multiply. The frames themselves are not kept, except the last two, which are the next chunk's past.

Where the picture is cut, edges travel before the transform: four frames in place of six, behind norm and SiLU and
rounded to the type that is multiplied. As in `norm.py` the launch's first programs send edges, and late ones transform
what came into the borders. Where ranks do not reach each other's memory, this is two launches with messages between
them: `TransformByMessage`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from wanvae_app.kernels.halo import wait
from wanvae_app.kernels.launch import launch
from wanvae_app.kernels.mailbox import PROGRAMS, Neighbours
from wanvae_app.kernels.norm import border_pixels, edge_pixels, receive_after, silu_norm
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.kernels.winograd import POINTS, num_transformed


@triton.jit
def _read(x, gamma, mask, DTYPE: tl.constexpr, NORM: tl.constexpr, C: tl.constexpr):
    """Return silu(norm(x)) rounded to DTYPE; without NORM x itself, which a peer may just have written."""
    if NORM:
        return silu_norm(x, gamma, mask, C).to(DTYPE).to(tl.float32)
    else:
        return tl.load(x, mask, 0.0, volatile=True).to(tl.float32)


@triton.jit
def _store(frames, slot, frame, at, v, mask):
    """Store v at numbers `at` of the padded frame whose slot is *slot; frames are `frame` numbers long."""
    tl.store(frames + tl.load(slot).to(tl.int64) * frame + at, v.to(frames.dtype.element_ty), mask)


@triton.jit
def _store_first_five(frames, slots, frame, at, d0, d1, d2, d3, d4, mask, A: tl.constexpr, B: tl.constexpr):
    """Store the first five of six transformed frames; formulas and order as in `winograd.cu`."""
    even = d4 - B * B * d2
    odd = A * (d3 - B * B * d1)
    _store(frames, slots, frame, at, even + odd, mask)
    _store(frames, slots + 1, frame, at, even - odd, mask)
    even = d4 - A * A * d2
    odd = B * (d3 - A * A * d1)
    _store(frames, slots + 2, frame, at, even + odd, mask)
    _store(frames, slots + 3, frame, at, even - odd, mask)
    _store(frames, slots + 4, frame, at, d4 - (A * A + B * B) * d2 + A * A * B * B * d0, mask)


@triton.jit
def _store_sixth(frames, slots, frame, at, d1, d3, d5, mask, A: tl.constexpr, B: tl.constexpr):
    """Store the last of six transformed frames."""
    _store(frames, slots + 5, frame, at, d5 - (A * A + B * B) * d3 + A * A * B * B * d1, mask)


@triton.jit
def _transform(
    x, step, gamma, frames, slots, frame, at, mask, T,
    NORM: tl.constexpr, C: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Transform pixels of T frames, and store them at numbers `at` of the padded frames in `slots`.

    x points to the pixels in the first frame; from frame to frame they are `step` numbers apart.
    """
    DTYPE: tl.constexpr = frames.dtype.element_ty
    past = frames + at
    d0 = tl.load(past + tl.load(slots).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    d1 = tl.load(past + tl.load(slots + 1).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    slots += 2
    for _ in range(0, T, 4):
        d2 = _read(x, gamma, mask, DTYPE, NORM, C)
        d3 = _read(x + step, gamma, mask, DTYPE, NORM, C)
        d4 = _read(x + 2 * step, gamma, mask, DTYPE, NORM, C)
        _store_first_five(frames, slots, frame, at, d0, d1, d2, d3, d4, mask, A, B)
        d5 = _read(x + 3 * step, gamma, mask, DTYPE, NORM, C)
        _store_sixth(frames, slots, frame, at, d1, d3, d5, mask, A, B)
        d0 = d4
        d1 = d5
        slots += 6
        x += 4 * step
    _store(frames, slots, frame, at, d0, mask)
    _store(frames, slots + 1, frame, at, d1, mask)


@triton.jit
def _send(
    x, gamma, p, programs, T, length, frame, first, step, out, out_flags,
    C: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Send part p of `programs` of an edge to a neighbour, and raise the flag of this part.

    The edge has `length` pixels in each frame of `frame` pixels: pixel i is `first` + i `step`. The message is
    [length, T, C].
    """
    t = tl.arange(0, 4)[:, None]
    c = tl.arange(0, BC)[None, :]
    out = tl.multiple_of(out, 16)
    mask = (t >= 0) & (c < C)  # [4, BC]: four frames at a time
    for i in range(p, length, programs):
        for start in range(0, T, 4):
            pixel = ((start + t) * frame + first + i * step).to(tl.int64)
            v = silu_norm(x + pixel * C + c, gamma, mask, C).to(out.dtype.element_ty)
            tl.store(out + (i * T + start + t) * C + c, v, mask)
    tl.debug_barrier()
    tl.atomic_xchg(out_flags + p, 1, sem="release", scope="sys")


@triton.jit
def _receive(
    frames, slots, p, programs, T, length, frame, first, step, came, came_flags, abort, waited,
    C: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BC: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    """Wait for part p of `programs` of a neighbour's edge, and transform it into a border.

    The border's pixels are counted as `_send` counts those of an edge, in padded frames of `frame` numbers.
    """
    c = tl.arange(0, BC)[None, :]
    came = tl.multiple_of(came, 16)
    wait(came_flags + p, abort, waited, p == 0, TIMED)
    for i in range(p, length, programs):
        at = (first + i * step) * C + c
        _transform(came + i * T * C + c, C, came, frames, slots, frame, at, c < C, T, False, C, A, B)


@triton.jit(do_not_specialize=["T", "H", "W", "senders", "first_receiver", "first_program"])
def transform_kernel(
    x,  # [T, H, W, C]; T is a multiple of 4
    gamma,  # [C]
    frames,  # padded frames [slots, H + 2, W + 2, C]
    slots,  # int32: of 2 past frames, of T / 4 * 6 transformed frames, of the last two frames
    T, H, W,
    senders,  # programs that send to each neighbour; as many receive from it
    first_receiver,  # programs that compute pixels ahead of those that receive: see `norm.receive_after`
    first_program,  # index of this launch's first program among all of them
    C: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr,  # `winograd.POINTS`
    BM: tl.constexpr,  # pixels of a program
    BC: tl.constexpr,  # a power of two, at least C
    CUT: tl.constexpr,  # 0: the picture is not cut; 1: along its rows; 2: along its columns
    # With CUT the arguments of `halo_kernel` of these names. Messages hold numbers of the frames' type.
    out_before=None, out_after=None, out_before_flags=None, out_after_flags=None,
    came_before=None, came_after=None, came_before_flags=None, came_after_flags=None, abort=None, waited=None,
    BEFORE: tl.constexpr = False, AFTER: tl.constexpr = False, TIMED: tl.constexpr = False,
):  # fmt: skip
    """All programs, in order: 2 `senders` send, `first_receiver` compute, 2 `senders` receive, the rest compute.

    ceil(H W / BM) compute in all.
    """
    p = tl.program_id(0) + first_program - 2 * senders  # negative: it sends
    part = p  # index of the pixels that it computes; negative for none
    stride = W + 2
    frame = ((H + 2) * stride).to(tl.int64) * C
    c = tl.arange(0, BC)[None, :]
    gammas = tl.load(gamma + c, c < C, 0.0).to(tl.float32)
    if CUT:
        length, step, last_edge = edge_pixels(H, W, CUT)
        first_border, border_step, last_border = border_pixels(H, W, CUT)
        q = p - first_receiver  # 0 to 2 * senders - 1: it receives
        part = tl.where(q < 0, p, tl.where(q < 2 * senders, -1, p - 2 * senders))
        if BEFORE:
            if p < -senders:
                _send(x, gammas, p + 2 * senders, senders, T, length, H * W, 0, step,
                      out_before.to(frames.dtype), out_before_flags, C, BC)  # fmt: skip
            if (q >= 0) & (q < senders):
                _receive(frames, slots, q, senders, T, length, frame, first_border, border_step,
                         came_before.to(frames.dtype), came_before_flags, abort, waited,
                         C, A, B, BC, TIMED)  # fmt: skip
        if AFTER:
            if (p >= -senders) & (p < 0):
                _send(x, gammas, p + senders, senders, T, length, H * W, last_edge, step,
                      out_after.to(frames.dtype), out_after_flags, C, BC)  # fmt: skip
            if (q >= senders) & (q < 2 * senders):
                _receive(frames, slots, q - senders, senders, T, length, frame, last_border, border_step,
                         came_after.to(frames.dtype), came_after_flags, abort, waited + 1,
                         C, A, B, BC, TIMED)  # fmt: skip
    if part >= 0:
        m = part * BM + tl.arange(0, BM)
        mask = (m < H * W)[:, None] & (c < C)
        at = ((m // W + 1) * stride + m % W + 1)[:, None] * C + c
        _transform(x + m.to(tl.int64)[:, None] * C + c, (H * W).to(tl.int64) * C, gammas,
                   frames, slots, frame, at, mask, T, True, C, A, B)  # fmt: skip


def transform(
    x: Tensor, gamma: Tensor, into: PaddedFrames, slots: Slots, neighbours: Neighbours | None = None
) -> None:
    """Write silu(norm(x)) of [T, H, W, C], T a multiple of 4, transformed into padded frames.

    `slots` name the two frames before, which are read; T / 4 * 6 transformed frames; and the last two frames as they
    are, which may overwrite the two before, read first. With `neighbours` the same launch exchanges edges with them.
    """
    if neighbours is None or not neighbours.arguments:
        _launch(x, gamma, into, slots)
        return
    senders = min(neighbours.programs, _edge_length(x, neighbours.columns))
    _launch(x, gamma, into, slots, _cut(neighbours.columns), senders, **neighbours.arguments)


class TransformByMessage:
    """The same where edges travel as messages: call `start`, exchange what it returns, then call `finish`.

    `columns` says whether the picture is cut along its columns, `before` and `after` whether there are such ranks.
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
        self._x, self._gamma, self._into, self._slots = x, gamma, into, slots
        self._columns = columns
        self._sides = {"BEFORE": before, "AFTER": after}

    def start(self) -> tuple[Tensor, Tensor]:
        """Write all but the borders, and return the first and the last edge, which are to be sent.

        Each is [length, T, C] in the frames' dtype.
        """
        x = self._x
        shape = 2, _edge_length(x, self._columns), len(x), x.shape[3]
        edges = torch.empty(shape, dtype=self._into.data.dtype, device=x.device)
        self._launch(_Part.ALL_BUT_RECEIVERS, edges[0], edges[1])
        return edges[0], edges[1]

    def finish(self, above: Tensor, below: Tensor) -> None:
        """Write the borders, from the edges that the ranks before and behind returned from `start`."""
        self._launch(_Part.RECEIVERS, above, below)

    def _launch(self, part: _Part, first: Tensor, final: Tensor) -> None:
        """Launch a part of the programs, which find both messages in `first` and `final`, and no flag to wait for."""
        x = self._x
        senders = min(PROGRAMS, _edge_length(x, self._columns))
        raised = torch.ones(2, senders, dtype=torch.int32, device=x.device)
        never = torch.zeros(1, dtype=torch.int32, device=x.device)
        exchange: dict[str, Any] = {"abort": never, "waited": never, **self._sides}
        for flags, side, rows in zip(raised, ("before", "after"), (first, final), strict=True):
            exchange |= {f"{way}_{side}_flags": flags for way in ("out", "came")}
            exchange |= {f"{way}_{side}": rows.view(torch.int64) for way in ("out", "came")}
        _launch(x, self._gamma, self._into, self._slots, _cut(self._columns), senders, part, **exchange)


class _Part(Enum):
    """Which of the kernel's programs a launch has. Receivers come last, unless all are in one launch."""

    ALL = "senders, programs that compute, and receivers among these"
    ALL_BUT_RECEIVERS = "senders and programs that compute"
    RECEIVERS = "receivers"


def _launch(
    x: Tensor,
    gamma: Tensor,
    into: PaddedFrames,
    slots: Slots,
    cut: int = 0,
    senders: int = 0,
    part: _Part = _Part.ALL,
    **exchange: Any,
) -> None:
    """Launch the kernel, or a part of its programs. `senders` send to each neighbour, and as many receive."""
    num_frames, height, width, c = x.shape
    assert x.is_contiguous() and c == into.data.shape[3] and num_frames % 4 == 0, (x.shape, x.stride())
    assert len(slots) == 4 + num_transformed(num_frames), (len(slots), num_frames)
    assert into.data.stride(0) < 2**31, "the numbers of a frame are counted in 32 bits"
    block = triton.next_power_of_2(c)
    pixels = max(1, 512 // block)
    programs = triton.cdiv(height * width, pixels)
    first_receiver = receive_after(programs) if part == _Part.ALL else programs
    begin = programs + 2 * senders if part == _Part.RECEIVERS else 0
    end = programs + (2 if part == _Part.ALL_BUT_RECEIVERS else 4) * senders
    launch(
        transform_kernel, (end - begin,),
        x, gamma, into.data, into.table(slots), num_frames, height, width, senders, first_receiver, begin, c,
        POINTS[0], POINTS[1], BM=pixels, BC=block, CUT=cut, **exchange, num_warps=max(1, block // 512),
    )  # fmt: skip


def _edge_length(x: Tensor, columns: bool) -> int:
    """Return the pixels of an edge of x [T, H, W, C] along the cut."""
    return x.shape[1] if columns else x.shape[2]


def _cut(columns: bool) -> int:
    """Return the kernel's CUT."""
    return 2 if columns else 1
