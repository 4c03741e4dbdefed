"""The last convolution, causal 3x3x3 to a few channels: one matrix product, then a sum of shifted rows.

With 3 channels out a convolution does too little with a pixel to be worth reading it 27 times. So `head_products`
multiplies each pixel once with all 27 taps. These products are what the pixel contributes to its neighbours, in its own
frame and the next two. `sum_head_products` adds up the contributions to each pixel, and keeps those to the next two
frames. Products are larger than frames, so callers take some rows of a frame at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from wanvae_app.kernels.launch import launch
from wanvae_app.kernels.load_tile import load_tile, tiles_of
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots


@triton.jit(do_not_specialize=["pixels", "rows", "first"])
def taps_kernel(
    source,  # padded frames as rows [slots * pixels, C], for `load_tile` in blocks [BM, BK]
    weight,  # all taps [N, C], in blocks [BN, BK]; N counts taps times channels out
    slot,  # int32 [1]: of the frame
    products,  # [N, pitch]
    pixels,  # pixels of a padded frame
    rows,  # pixels of all padded frames
    first,  # index in the frame of the first pixel that is multiplied
    pitch,  # pixels of a row of `products`: those that are multiplied, rounded up to a multiple of 16
    C: tl.constexpr, N: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr, POINTERS: tl.constexpr,
):  # fmt: skip
    """Multiply pixels of a padded frame with all taps. Programs: (ceil(pitch / BM), ceil(N / BN))."""
    m0 = tl.program_id(0) * BM
    n0 = tl.program_id(1) * BN
    row = tl.load(slot) * pixels + first + m0
    acc = tl.zeros((BN, BM), tl.float32)
    for c in tl.range(0, C, BK, num_stages=STAGES):
        taps = load_tile(weight, n0, c, N, C, C, BN, BK, POINTERS)
        acc = tl.dot(taps, load_tile(source, row, c, rows, C, C, BM, BK, POINTERS).T, acc)
    m = m0 + tl.arange(0, BM)[None, :]
    n = n0 + tl.arange(0, BN)[:, None]
    at = n.to(tl.int64) * pitch + m
    tl.store(products + at, acc.to(products.dtype.element_ty), (m < pitch) & (n < N))


@triton.jit
def _sum_nine_taps(products, first, corner, stride, pitch, mask, n, N: tl.constexpr):
    """Return what the nine taps from `first` on, those of one frame, contribute to channels n of pixels: [BM, BN].

    `corner` [BM] is the upper left neighbour of each pixel, as an index into rows of `stride` pixels.
    """
    acc = tl.zeros(mask.shape, tl.float32)
    for kh in tl.static_range(3):
        for kw in tl.static_range(3):
            row = (first + kh * 3 + kw) * N + n
            at = row.to(tl.int64)[None, :] * pitch + (corner + kh * stride + kw)[:, None]
            acc += tl.load(products + at, mask, 0.0).to(tl.float32)
    return acc


@triton.jit(do_not_specialize=["H", "W", "pitch", "due_stride"])
def head_kernel(
    products,  # [27 * N, pitch], pitch >= (H + 2) (W + 2): what each pixel contributes to its neighbours, by tap
    bias,  # [N]
    due,  # float32 [2, H, W, N]: what earlier frames contribute to this frame and to the next
    out,  # [H, W, N]
    H, W, pitch,
    due_stride,  # numbers from the first of `due`'s two frames to the second
    N: tl.constexpr,
    BM: tl.constexpr,  # pixels of a program
    BN: tl.constexpr,  # a power of two, at least N
):  # fmt: skip
    """Sum a frame and replace `due` by what is due to the next two frames. Programs: ceil(H W / BM)."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    stride = W + 2
    corner = m // W * stride + m % W
    mask = (m < H * W)[:, None] & (n < N)[None, :]
    at = m.to(tl.int64)[:, None] * N + n[None, :]
    later = due + due_stride.to(tl.int64) + at
    next_but_one = _sum_nine_taps(products, 0, corner, stride, pitch, mask, n, N)
    next_one = _sum_nine_taps(products, 9, corner, stride, pitch, mask, n, N) + tl.load(later, mask, 0.0)
    now = _sum_nine_taps(products, 18, corner, stride, pitch, mask, n, N) + tl.load(due + at, mask, 0.0)
    now += tl.load(bias + n, n < N, 0.0).to(tl.float32)[None, :]
    tl.store(out + at, now.to(out.dtype.element_ty), mask)
    tl.store(due + at, next_one, mask)
    tl.store(later, next_but_one, mask)


def head_products(
    taps: Tensor, frames: PaddedFrames, slot: Slots, begin: int, end: int, pointers: bool = False
) -> Tensor:
    """Multiply the pixels that rows `begin` to `end` (exclusive) of a frame see with `taps` [27 N, C].

    `taps` are in order kt kh kw N, and `slot` names the frame. Returns [27 N, pitch], of which the first
    (end - begin + 2) (W + 2) columns are pixels: these rows of the padded frame, with one above and one below.
    `pointers` says how tiles are loaded.
    """
    _, rows, columns, c = frames.data.shape
    n, num_pixels = len(taps), (end - begin + 2) * columns
    products = taps.new_empty(n, -(-num_pixels // 16) * 16)
    depth = 64 if c % 64 == 0 else 32 if c > 16 else 16
    pixels = frames.data.view(-1, c)
    source, weight = (tiles_of(x, (128, depth), pointers) for x in (pixels, taps))
    launch(
        taps_kernel, (triton.cdiv(num_pixels, 128), triton.cdiv(n, 128)),
        source, weight, frames.table(slot), products, rows * columns, len(pixels), begin * columns,
        products.shape[1], C=c, N=n, BM=128, BN=128, BK=depth, STAGES=3, POINTERS=pointers, num_warps=8,
    )  # fmt: skip
    return products


def sum_head_products(products: Tensor, bias: Tensor, due: Tensor, out: Tensor) -> None:
    """Write rows [H, W, N] of a frame of the convolution into `out`, from `products` [27 N, pitch] of these rows.

    `due` [2, H, W, N] float32 is what earlier frames contribute to this frame and the next. It is replaced by what is
    due to the next two frames.
    """
    height, width, n = out.shape
    assert out.is_contiguous() and due[0].is_contiguous() and due.shape == (2, *out.shape), (
        out.shape,
        due.shape,
    )
    block = triton.next_power_of_2(n)
    pixels = 1024 // block
    launch(
        head_kernel, (triton.cdiv(height * width, pixels),),
        products, bias, due, out, height, width, products.shape[1], due.stride(0),
        N=n, BM=pixels, BN=block, num_warps=4,
    )  # fmt: skip
