"""Attention with one wide head, for which libraries have no fast kernel: 384 channels in Wan 2.1.

softmax(q k^T / sqrt(C)) v, block by block with a running maximum and sum (Dao et al., FlashAttention, 2022).
The channels are handled in two parts, C = C1 + C2, because tiles are powers of two. The plain equal is PyTorch's
`scaled_dot_product_attention`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["QUERIES", "KEYS"])
def attention_kernel(
    q1, q2,  # descriptors of the queries [frames * QUERIES, C], blocks [BM, C1] and [BM, C2]
    k1, k2,  # of the keys [frames * KEYS, C], blocks [BN, C1] and [BN, C2]
    v1, v2,  # of the values, likewise
    out,  # [frames * QUERIES, C]
    QUERIES, KEYS, scale,  # scale: log2(e) / sqrt(C)
    C1: tl.constexpr, C2: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    m0 = tl.program_id(0) * BM
    frame = tl.program_id(1)
    row = frame * QUERIES + m0
    a1 = q1.load([row, 0])
    a2 = q2.load([row, C1])
    top = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc1 = tl.zeros((BM, C1), tl.float32)
    acc2 = tl.zeros((BM, C2), tl.float32)
    for n in tl.range(0, KEYS, BN, num_stages=STAGES):
        key = frame * KEYS + n
        s = tl.dot(a1, k1.load([key, 0]).T)
        s = tl.dot(a2, k2.load([key, C1]).T, s) * scale
        s = tl.where((n + tl.arange(0, BN) < KEYS)[None, :], s, -float("inf"))
        peak = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - peak[:, None])
        shrink = tl.exp2(top - peak)
        total = total * shrink + tl.sum(p, 1)
        top = peak
        p = p.to(out.dtype.element_ty)
        acc1 = tl.dot(p, v1.load([key, 0]), acc1 * shrink[:, None])
        acc2 = tl.dot(p, v2.load([key, C1]), acc2 * shrink[:, None])
    m = m0 + tl.arange(0, BM)
    place = (frame.to(tl.int64) * QUERIES + m)[:, None] * (C1 + C2)
    mask = (m < QUERIES)[:, None]
    tl.store(out + place + tl.arange(0, C1)[None, :], (acc1 / total[:, None]).to(out.dtype.element_ty), mask)
    tl.store(
        out + place + C1 + tl.arange(0, C2)[None, :], (acc2 / total[:, None]).to(out.dtype.element_ty), mask
    )
