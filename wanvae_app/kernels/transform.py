"""Frames as `winograd.cu` reads them for four at a time: norm, SiLU and the transform of F(4, 3) along time.

Of four frames in, d2 to d5, and the two before, d0 and d1, it makes what the six products multiply. The borders that
neighbours' rows belong into are made afterwards: so rows travel as they are, four and not six. Frames are not kept for
it, but for the last two. A rank's own first and last rows lie in frames that are two rows high, its edges; so do, in
their borders, the rows that come. (Or columns, where the picture is cut along these: two columns wide.)
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from wanvae_app.kernels.norm import silu_norm
from wanvae_app.kernels.winograd import POINTS, num_products
from wanvae_app.padded import Padded, SeenAs

Slots = tuple[int, ...]


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


@triton.jit
def _put_edges(edges, slot, frame, place, across, v, mask, both):
    """v, of a rank's first or last row, into its edges; where there is but one row it is both."""
    _put(edges, slot, frame, place, v, mask)
    if both:
        _put(edges, slot, frame, place + across, v, mask)


@triton.jit(do_not_specialize=["T", "H", "W"])
def transform_kernel(
    x,  # [T, H, W, C], four frames after four frames
    gamma,  # [C]
    frames,  # padded frames [frames, H + 2, W + 2, C]
    slots,  # int32: of 2 past frames, of T / 4 * 6 for products, and of the last two frames
    edges,  # with CUT, padded frames [frames, 4, W + 2, C] or [frames, H + 2, 4, C]
    edge_slots,  # int32 [T]
    T, H, W,
    C: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    CUT: tl.constexpr,  # 0: the picture is not cut; 1: along its rows; 2: along its columns
    BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BC)[None, :]
    mask = (m < H * W)[:, None] & (c < C)
    y = m // W
    column = m % W
    stride = W + 2
    frame = ((H + 2) * stride).to(tl.int64) * C
    place = ((y + 1) * stride + column + 1)[:, None] * C + c
    if CUT == 1:
        row, one = y, H == 1
        last = row == H - 1
        across = stride * C
        edge_frame = (4 * stride).to(tl.int64) * C
        edge_place = (column + 1)[:, None] * C + c
    if CUT == 2:
        row, one = column, W == 1
        last = row == W - 1
        across = C
        edge_frame = (4 * (H + 2)).to(tl.int64) * C
        edge_place = (y + 1)[:, None] * (4 * C) + c
    if CUT:
        edge_place += (tl.where(row == 0, 1, 2) * across)[:, None]
        edge = mask & ((row == 0) | last)[:, None]
    weight = tl.load(gamma + c, c < C, 0.0).to(tl.float32)
    DTYPE: tl.constexpr = frames.dtype.element_ty
    past = frames + place
    d0 = tl.load(past + tl.load(slots).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    d1 = tl.load(past + tl.load(slots + 1).to(tl.int64) * frame, mask, 0.0).to(tl.float32)
    x += m.to(tl.int64)[:, None] * C + c
    step = (H * W).to(tl.int64) * C
    slots += 2
    for _ in range(0, T, 4):
        d2 = _normed(x, weight, mask, DTYPE, C)
        d3 = _normed(x + step, weight, mask, DTYPE, C)
        d4 = _normed(x + 2 * step, weight, mask, DTYPE, C)
        _put_products(frames, slots, frame, place, d0, d1, d2, d3, d4, mask, A, B)
        if CUT:
            _put_edges(edges, edge_slots, edge_frame, edge_place, across, d2, edge, one)
            _put_edges(edges, edge_slots + 1, edge_frame, edge_place, across, d3, edge, one)
            _put_edges(edges, edge_slots + 2, edge_frame, edge_place, across, d4, edge, one)
        d5 = _normed(x + 3 * step, weight, mask, DTYPE, C)
        _put_last_product(frames, slots, frame, place, d1, d3, d5, mask, A, B)
        if CUT:
            _put_edges(edges, edge_slots + 3, edge_frame, edge_place, across, d5, edge, one)
            edge_slots += 4
        d0 = d4
        d1 = d5
        slots += 6
        x += 4 * step
    _put(frames, slots, frame, place, d0, mask)
    _put(frames, slots + 1, frame, place, d1, mask)


@triton.jit(
    do_not_specialize=["T", "length", "step", "final", "frame", "edge_step", "edge_final", "edge_frame"]
)
def transform_borders_kernel(
    frames,  # padded frames
    slots,  # int32 [2 + T / 4 * 6 + 2]: as of `transform_kernel`
    edges,  # padded frames, into whose borders neighbours' rows have come
    edge_slots,  # int32 [T]
    T, length,  # pixels of a border
    step, final,  # in pixels: from one to the next; from the first rank's border to the last one's
    frame, edge_step, edge_final, edge_frame,  # the same of edges; and pixels of a frame
    C: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    q = tl.program_id(1)
    c = tl.arange(0, BC)[None, :]
    side = i // length
    i %= length
    mask = (side < 2)[:, None] & (c < C)
    place = (i * step + side * final)[:, None] * C + c
    frame = frame.to(tl.int64) * C
    edge_frame = edge_frame.to(tl.int64) * C
    come = edges + (i * edge_step + side * edge_final)[:, None] * C + c
    edge_slots += 4 * q
    if q == 0:
        d0 = tl.load(frames + tl.load(slots).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
        d1 = tl.load(frames + tl.load(slots + 1).to(tl.int64) * frame + place, mask, 0.0).to(tl.float32)
    else:
        d0 = tl.load(come + tl.load(edge_slots - 2).to(tl.int64) * edge_frame, mask, 0.0).to(tl.float32)
        d1 = tl.load(come + tl.load(edge_slots - 1).to(tl.int64) * edge_frame, mask, 0.0).to(tl.float32)
    d2 = tl.load(come + tl.load(edge_slots).to(tl.int64) * edge_frame, mask, 0.0).to(tl.float32)
    d3 = tl.load(come + tl.load(edge_slots + 1).to(tl.int64) * edge_frame, mask, 0.0).to(tl.float32)
    d4 = tl.load(come + tl.load(edge_slots + 2).to(tl.int64) * edge_frame, mask, 0.0).to(tl.float32)
    d5 = tl.load(come + tl.load(edge_slots + 3).to(tl.int64) * edge_frame, mask, 0.0).to(tl.float32)
    slots += 2 + 6 * q
    _put_products(frames, slots, frame, place, d0, d1, d2, d3, d4, mask, A, B)
    _put_last_product(frames, slots, frame, place, d1, d3, d5, mask, A, B)
    if q == T // 4 - 1:
        _put(frames, slots + 6, frame, place, d4, mask)
        _put(frames, slots + 7, frame, place, d5, mask)


class Edges(NamedTuple):
    """What a rank's neighbours need of its new frames: the first and last row of each, in padded frames two rows high
    [slots, 4, W + 2, C]; or the first and last column, in frames two columns wide [slots, H + 2, 4, C]."""

    frames: SeenAs
    slots: Slots
    columns: bool


def transform(x: Tensor, gamma: Tensor, into: Padded, slots: Slots, edges: Edges | None = None) -> None:
    """silu(norm(x)) of [T, H, W, C] as `winograd.convolve` reads it for four frames at a time, into padded frames.

    `slots` are those of the two frames before, of what the products multiply (see `winograd.cu`), and of the last two
    frames as they are. What their neighbours need of all T goes into `edges`.
    """
    num_frames, height, width, c = x.shape
    assert x.is_contiguous() and c == into.data.shape[3] and num_frames % 4 == 0, (x.shape, x.stride())
    assert len(slots) == 4 + num_products(num_frames), (len(slots), num_frames)
    assert into.data.stride(0) < 2**31, "places in a frame are counted in 32 bits"
    if x.is_meta:
        return
    width_of_tile = triton.next_power_of_2(c)
    pixels = max(1, 512 // width_of_tile)
    table = into.table(slots)
    transform_kernel[(triton.cdiv(height * width, pixels),)](
        x, gamma, into.data, table, edges.frames.data if edges else into.data,
        edges.frames.table(edges.slots) if edges else table, num_frames, height, width,
        c, A=POINTS[0], B=POINTS[1], CUT=1 + edges.columns if edges else 0, BM=pixels, BC=width_of_tile,
        num_warps=max(1, width_of_tile // 512),
    )  # fmt: skip


def transform_borders(frames: Padded, slots: Slots, edges: Edges) -> None:
    """The borders of what `transform` made, after the neighbours' rows have come into those of `edges`."""
    _, rows, columns, c = frames.data.shape
    num_frames = len(edges.slots)
    assert len(slots) == 4 + num_products(num_frames), (len(slots), num_frames)
    if frames.data.is_meta:
        return
    length, step, final = (
        (rows, columns, columns - 1) if edges.columns else (columns, 1, (rows - 1) * columns)
    )
    edge_step, edge_final = (4, 3) if edges.columns else (1, 3 * columns)
    width_of_tile = triton.next_power_of_2(c)
    pixels = max(1, 512 // width_of_tile)
    transform_borders_kernel[(triton.cdiv(2 * length, pixels), num_frames // 4)](
        frames.data, frames.table(slots), edges.frames.data, edges.frames.table(edges.slots), num_frames, length,
        step, final, rows * columns, edge_step, edge_final, 4 * length,
        c, A=POINTS[0], B=POINTS[1], BM=pixels, BC=width_of_tile, num_warps=max(1, width_of_tile // 512),
    )  # fmt: skip
