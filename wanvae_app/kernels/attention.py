"""Attention with one head of 384 channels, as in Wan 2.1, for which libraries have no fast kernel.

softmax(q k^T / sqrt(C)) v is computed block by block with a running maximum and sum (Dao et al., FlashAttention, 2022).
Channels are divided in two, C = C1 + C2, because Triton's tiles are powers of two. Where there are few queries, several
programs share the keys, and their results are joined afterwards (Dao et al., Flash-Decoding, 2023). The plain equal is
PyTorch's `scaled_dot_product_attention`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from wanvae_app.kernels.launch import launch
from wanvae_app.kernels.tiles import H100_MULTIPROCESSORS


@triton.jit(do_not_specialize=["QUERIES", "KEYS"])
def attention_kernel(
    q1, q2,  # descriptors of the queries [frames * QUERIES, C], blocks [BM, C1] and [BM, C2]
    k1, k2,  # descriptors of the keys [frames * KEYS, C], blocks [BN, C1] and [BN, C2]
    v1, v2,  # descriptors of the values, like the keys'
    out,  # [frames * QUERIES, C]; with SHARES > 1 float32 [frames, SHARES, QUERIES, C], not yet divided by the sum
    found,  # with SHARES > 1 float32 [frames, SHARES, QUERIES, 2]: maximum and sum
    QUERIES, KEYS,  # of a frame
    scale,  # log2(e) / sqrt(C)
    C1: tl.constexpr, C2: tl.constexpr,
    BM: tl.constexpr,  # queries of a program
    BN: tl.constexpr,  # keys per step
    STAGES: tl.constexpr,  # steps whose keys and values are fetched ahead
    SHARES: tl.constexpr,  # programs that share the keys
):  # fmt: skip
    """Programs: (ceil(QUERIES / BM), frames, SHARES)."""
    m0 = tl.program_id(0) * BM
    frame = tl.program_id(1)
    row = frame * QUERIES + m0
    a1 = q1.load([row, 0])
    a2 = q2.load([row, C1])
    top = tl.full((BM,), -float("inf"), tl.float32)  # the largest score so far
    total = tl.zeros((BM,), tl.float32)
    acc1 = tl.zeros((BM, C1), tl.float32)
    acc2 = tl.zeros((BM, C2), tl.float32)
    begin, end = 0, KEYS
    if SHARES > 1:
        share = tl.cdiv(tl.cdiv(KEYS, BN), SHARES) * BN
        begin = tl.program_id(2) * share
        end = tl.minimum(begin + share, KEYS)
    for n in tl.range(begin, end, BN, num_stages=STAGES):
        key = frame * KEYS + n
        s = tl.dot(a1, k1.load([key, 0]).T)
        s = tl.dot(a2, k2.load([key, C1]).T, s) * scale  # scores [BM, BN], exponents of 2
        s = tl.where((n + tl.arange(0, BN) < KEYS)[None, :], s, -float("inf"))
        peak = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - peak[:, None])
        shrink = tl.exp2(top - peak)
        total = total * shrink + tl.sum(p, 1)
        top = peak
        p = p.to(a1.dtype)
        acc1 = tl.dot(p, v1.load([key, 0]), acc1 * shrink[:, None])
        acc2 = tl.dot(p, v2.load([key, C1]), acc2 * shrink[:, None])
    m = m0 + tl.arange(0, BM)
    row = frame.to(tl.int64) * QUERIES + m
    if SHARES > 1:
        row = (frame.to(tl.int64) * SHARES + tl.program_id(2)) * QUERIES + m
        tl.store(found + row * 2, top, m < QUERIES)
        tl.store(found + row * 2 + 1, total, m < QUERIES)
    else:
        acc1 = acc1 / total[:, None]
        acc2 = acc2 / total[:, None]
    at = row[:, None] * (C1 + C2)
    mask = (m < QUERIES)[:, None]
    tl.store(out + at + tl.arange(0, C1)[None, :], acc1.to(out.dtype.element_ty), mask)
    tl.store(out + at + C1 + tl.arange(0, C2)[None, :], acc2.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["QUERIES"])
def join_kernel(
    partial, found,  # `out` and `found` of `attention_kernel`
    out,  # [frames, QUERIES, C]
    QUERIES,
    C: tl.constexpr, SHARES: tl.constexpr,
    BM: tl.constexpr,  # queries of a program
    BC: tl.constexpr,  # a power of two, at least C
):  # fmt: skip
    """Join what the programs that share the keys found. Programs: (ceil(QUERIES / BM), frames)."""
    frame = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BC)[None, :]
    inside = m < QUERIES
    mask = inside[:, None] & (c < C)
    top = tl.full((BM,), -float("inf"), tl.float32)
    for i in tl.static_range(SHARES):
        row = (frame * SHARES + i) * QUERIES + m
        top = tl.maximum(top, tl.load(found + row * 2, inside, 0.0))
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, BC), tl.float32)
    for i in tl.static_range(SHARES):
        row = (frame * SHARES + i) * QUERIES + m
        weight = tl.exp2(tl.load(found + row * 2, inside, 0.0) - top)
        total += weight * tl.load(found + row * 2 + 1, inside, 1.0)
        acc += weight[:, None] * tl.load(partial + row[:, None] * C + c, mask, 0.0)
    at = (frame * QUERIES + m)[:, None] * C + c
    tl.store(out + at, (acc / total[:, None]).to(out.dtype.element_ty), mask)


def is_supported(channels: int) -> bool:
    """Return whether `attend` takes this width. For smaller ones libraries have kernels as fast."""
    return channels == 384


def attend(q: Tensor, k: Tensor, v: Tensor, num_shares: int | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(C)) v of q [frames, queries, C] and k, v [frames, keys, C].

    `num_shares` programs share the keys of a frame; by default as many as fill the chip, if there are few queries.
    """
    num_frames, queries, c = q.shape
    keys = k.shape[1]
    c1, c2, bn = 256, 128, 32
    # Two or three stages fill the shared memory. Few queries go to smaller programs, on more multiprocessors.
    few = 2 * triton.cdiv(queries, 128) * num_frames <= H100_MULTIPROCESSORS
    bm, stages, warps = (64, 3, 4) if few else (128, 2, 8)
    programs = triton.cdiv(queries, bm) * num_frames
    num_shares = num_shares or max(1, min(H100_MULTIPROCESSORS // programs, 8, keys // 1024))
    out = q.new_empty(q.shape)

    def describe(x: Tensor, rows: int) -> list[TensorDescriptor]:
        assert len(x) == 1 or x.stride(0) == x.shape[1] * x.stride(1), x.stride()
        shape = [x.shape[0] * x.shape[1], c]
        # Both descriptors begin at channel 0: the kernel adds C1 for the second part.
        return [TensorDescriptor(x, shape, [x.stride(1), 1], [rows, channels]) for channels in (c1, c2)]

    partial, found = out, out
    if num_shares > 1:
        partial = torch.empty(num_frames, num_shares, queries, c, dtype=torch.float32, device=q.device)
        found = torch.empty(num_frames, num_shares, queries, 2, dtype=torch.float32, device=q.device)
    launch(
        attention_kernel, (triton.cdiv(queries, bm), num_frames, num_shares),
        *describe(q, bm), *describe(k, bn), *describe(v, bn), partial, found, queries, keys,
        c**-0.5 * math.log2(math.e),
        C1=c1, C2=c2, BM=bm, BN=bn, STAGES=stages, SHARES=num_shares, num_warps=warps,
    )  # fmt: skip
    if num_shares > 1:
        launch(
            join_kernel, (triton.cdiv(queries, 8), num_frames),
            partial, found, out, queries,
            C=c, SHARES=num_shares, BM=8, BC=triton.next_power_of_2(c), num_warps=4,
        )  # fmt: skip
    return out
