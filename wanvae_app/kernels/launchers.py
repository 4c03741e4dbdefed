"""Launchers of the Triton kernels: tensors in, tensors out.

Tensors without data (on the device "meta") are allocated as others are, and nothing is launched.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from wanvae_app.kernels.conv import conv_kernel
from wanvae_app.kernels.head import head_kernel, taps_kernel
from wanvae_app.kernels.mailbox import Neighbours
from wanvae_app.kernels.norm import blank_kernel, norm_kernel, receive_after
from wanvae_app.kernels.padded_frames import PaddedFramePool, PaddedFrames, Slots
from wanvae_app.kernels.pixels import pixel_kernel
from wanvae_app.kernels.tiles import Tile, choose_tile, processors_of

log = logging.getLogger(__name__)

SHARED_MEMORY = 200 * 1024  # bytes a program may use; consumer GPUs have less


class Shortcut(NamedTuple):
    """Wan 2.2's around an upsampling level, not yet duplicated: see `layers.add_duplicate_up`."""

    pixels: Tensor  # [T', H, W, C'], where the result is [T, 2 H, 2 W, N]: C' is a multiple of N
    time: int  # frames that each of these T' becomes
    start: int  # which of those time * T' frames is the result's first

    def after(self, num_frames: int) -> Shortcut | None:
        """What the frames after so many get; None after the last, so that nobody holds its memory."""
        start = self.start + num_frames
        return self._replace(start=start) if start < self.time * len(self.pixels) else None


def conv(
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
    """The convolution of padded frames: [T, up H, up W, N], or `into` padded frames whose data it returns.

    `weight` is [up^2 N, kt kh kw C], or such columns of a wider matrix; `slots` are those of the kt - 1 past frames and
    of the T present ones; `residual` [T, up H, up W, N] is added, and with `in_place` is where the sum goes: whoever
    writes a number has read its own before, and nobody else's. With `gamma` [N], silu(norm(result)) is stored instead.
    With up = 2 a `shortcut` may be added, too.
    """
    kt, kh, kw = taps
    data = frames.data
    _, rows, columns, c = data.shape
    height, width, n, num_frames = rows - 2, columns - 2, bias.shape[0], len(slots) - kt + 1
    tile = tile or choose_tile(
        c, n, num_frames, height * columns, residual is not None, processors_of(data.device)
    )
    frames_per_tile = math.gcd(tile.frames, num_frames) if kt == 3 else 1
    second = tile.more if tile.more > 1 else 0
    # Frames and weights may be fp16 in a bf16 model.
    shape = (num_frames, up * height, up * width, n)
    if in_place:
        assert residual is not None and residual.dtype == bias.dtype and residual.is_contiguous() and not into
        out = residual
    else:
        out = into[0].data if into else torch.empty(shape, dtype=bias.dtype, device=data.device)
    skip, time, start = shortcut or (bias[None], 0, 0)
    if shortcut:
        assert up == 2 and kt == 1 and skip.is_contiguous() and start + num_frames <= time * len(skip)
        assert skip.shape[1:3] == (height, width) and skip.shape[3] % n == 0, (skip.shape, height, width, n)
    if data.is_meta:
        return out
    source = TensorDescriptor(data, [data.shape[0] * rows * columns, c], [c, 1], [tile.pixels, tile.depth])
    weights = [
        TensorDescriptor(weight, list(weight.shape), list(weight.stride()), [part, tile.depth])
        for part in (tile.channels, second or 16)
    ]
    grid = (
        num_frames // frames_per_tile * triton.cdiv(height * columns, tile.pixels),
        triton.cdiv(n, tile.channels + second),
        up * up,
    )
    table = frames.table(slots)
    conv_kernel[grid](
        source, *weights, table, bias, bias if residual is None else residual, out,
        bias if gamma is None else gamma, into[0].table(into[1]) if into else table, skip,
        num_frames, height, width, start, c, n, kt, kh, kw, up,
        RESIDUAL=residual is not None, PADDED=into is not None, NORM=gamma is not None, TIME=time,
        CHANNELS=skip.shape[-1] // n, F=frames_per_tile, BM=tile.pixels, BN1=tile.channels, BN2=tile.more,
        BK=tile.depth, STAGES=tile.stages, num_warps=tile.warps,
        **({"maxnreg": tile.registers} if tile.registers else {}),
    )  # fmt: skip
    return out


def activate(
    x: Tensor,
    gamma: Tensor | None,
    into: PaddedFrames,
    slots: Slots,
    neighbours: Neighbours | None = None,
) -> None:
    """Write silu(norm(x)), or without gamma x itself, of [T, H, W, C] into padded frames, and zeros into channels that
    only these have. With `neighbours` the same launch exchanges edge rows with them, while it writes the rest.
    """
    num_frames, height, width, c = x.shape
    n = into.data.shape[3]
    assert x.is_contiguous() and c <= n, (x.shape, x.stride(), n)
    if x.is_meta:
        return
    width_of_tile = triton.next_power_of_2(n)
    pixels = max(1, 4096 // width_of_tile)
    cut = edges = 0
    there = neighbours.arguments if neighbours is not None else {}
    if neighbours is not None and there:
        cut, length = (2, height) if neighbours.columns else (1, width)
        edges = min(neighbours.programs, triton.cdiv(num_frames * length, pixels))
    programs = num_frames * triton.cdiv(height * width, pixels)
    norm_kernel[(4 * edges + programs,)](
        x, x if gamma is None else gamma, into.data, into.table(slots), num_frames, height, width,
        edges, receive_after(programs), c, n, NORM=gamma is not None, BM=pixels, BN=width_of_tile, CUT=cut, **there,
        num_warps=4,
    )  # fmt: skip


def blank(frames: PaddedFramePool, slots: Slots) -> None:
    """Zeros into frames of 16-bit numbers, an even count of them each."""
    count = frames.data[0].nbytes // 4
    if not frames.data.is_meta:
        grid = (triton.cdiv(count, 4096), len(slots))
        blank_kernel[grid](frames.data.view(torch.int32), frames.table(slots), count, BLOCK=4096, num_warps=8)


def to_uint8(x: Tensor) -> Tensor:
    """Numbers in [-1, 1], contiguous, to uint8 pixels in 0..255 of the same shape, rounded to nearest."""
    assert x.is_contiguous(), x.stride()
    out = torch.empty_like(x, dtype=torch.uint8)
    if not x.is_meta:
        pixel_kernel[(triton.cdiv(x.numel(), 4096),)](x, out, x.numel(), BLOCK=4096, num_warps=8)
    return out


def head_products(taps: Tensor, frames: PaddedFrames, slot: Slots, begin: int, end: int) -> Tensor:
    """What rows begin to end (exclusive) of one frame see, all pixels of the padded frame around them, times all taps
    [N, C]: [N, pitch], of which (end - begin + 2) (W + 2) are pixels."""
    _, height, width, c = frames.data.shape
    n, rows = len(taps), (end - begin + 2) * width
    products = taps.new_empty(n, -(-rows // 16) * 16)
    if taps.is_meta:
        return products
    depth = 64 if c % 64 == 0 else 32 if c > 16 else 16
    source = TensorDescriptor(frames.data, [len(frames.data) * height * width, c], [c, 1], [128, depth])
    weight = TensorDescriptor(taps, [n, c], [c, 1], [128, depth])
    taps_kernel[(triton.cdiv(rows, 128), triton.cdiv(n, 128))](
        source, weight, frames.table(slot), products, height * width, begin * width, products.shape[1],
        C=c, N=n, BM=128, BN=128, BK=depth, STAGES=3, num_warps=8,
    )  # fmt: skip
    return products


def sum_head_products(products: Tensor, bias: Tensor, due: Tensor, out: Tensor) -> None:
    """Rows of one frame of a causal 3x3x3 convolution, [H, W, N], of what its taps contribute to three, [27 N, pitch].

    `due` [2, H, W, N] float32 is what earlier frames contribute to this one and the next; afterwards, to the next two.
    """
    height, width, n = out.shape
    assert out.is_contiguous() and due[0].is_contiguous() and due.shape == (2, *out.shape), (
        out.shape,
        due.shape,
    )
    if out.is_meta:
        return
    block = triton.next_power_of_2(n)
    pixels = 1024 // block
    head_kernel[(triton.cdiv(height * width, pixels),)](
        products, bias, due, out, height, width, products.shape[1], due.stride(0),
        N=n, BM=pixels, BN=block, num_warps=4,
    )  # fmt: skip


@lru_cache
def unsupported(device: torch.device) -> str:
    """Why these kernels do not run on a device, in a few words; "" if they do. Tried once: it compiles one."""
    if device.type != "cuda":
        return "there is no GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < (9, 0):
        return f"the GPU's compute capability is {capability[0]}.{capability[1]}, and 9.0 is needed"
    try:
        shared = triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]
        if shared < SHARED_MEMORY:
            needed = SHARED_MEMORY // 1024
            return f"the GPU has {shared // 1024} KiB of shared memory for a program, and {needed} are needed"
        frames = PaddedFramePool(1, 1, 8, torch.bfloat16, device)
        activate(torch.ones(1, 1, 1, 8, dtype=torch.bfloat16, device=device), None, frames, frames.take(1))
    except Exception as error:  # whatever its compiler chain raises: there is another path
        log.warning(
            "Triton does not work here, so decoding is slower; it needs gcc and Python's headers: %s", error
        )
        return "Triton does not work; it needs gcc and Python's headers"
    return ""
