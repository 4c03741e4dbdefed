"""Compiles and starts `winograd.cu`: causal 3x3x3 convolutions with a third or half of the multiplications saved,
on Hopper GPUs.

Triton cannot read a tile at any offset from shared memory, and without that a Winograd transform costs more traffic
than it saves arithmetic: so this one is CUDA C++, compiled when it is first needed (see `nvrtc.py`).
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache

import torch
from torch import Tensor

from wanvae_app.kernels import nvrtc, tiles
from wanvae_app.kernels.mailbox import EarlyHalo
from wanvae_app.kernels.nvrtc import DEPTH, TILE_COLUMNS, TILE_ROWS
from wanvae_app.kernels.padded_frames import PaddedFramePool, PaddedFrames, Slots

log = logging.getLogger(__name__)

# What a block of so many channels takes, `per` frames at a time, of what the widest does (measured on an H100).
COSTS = {2: {96: 1.0, 64: 0.71, 32: 0.51}, 4: {64: 1.0, 32: 0.66}}
WARPS = 8  # of a block, that multiply
POINTS = 11 / 16, 23 / 16  # A and B of F(4, 3): of those whose squares are fp16 numbers, they round least


def pack(weight: Tensor, per: int = 2) -> Tensor:
    """Weights [N, C, 3, 3, 3] for the products that make `per` frames, 2 or 4: fp16 [9 taps, per + 2, N, C].

    F(2, 3) as by Lavin and Gray (Fast Algorithms for Convolutional Neural Networks, 2015); F(4, 3) by the same method
    of Toom and Cook, in other points.
    """
    g0, g1, g2 = weight.float().unbind(2)
    if per == 2:
        products = [g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2]
    else:
        aa, bb = POINTS[0] ** 2, POINTS[1] ** 2
        scales = 2 * aa * (aa - bb), 2 * bb * (bb - aa)
        points = [(p, s) for q, s in zip(POINTS, scales, strict=True) for p in (q, -q)]
        products = [(g0 + p * g1 + p * p * g2) / s for p, s in points] + [g0 / (aa * bb), g2]
    stacked = torch.stack(products)  # products, N, C, kh, kw
    return stacked.permute(3, 4, 0, 1, 2).flatten(0, 1).to(torch.float16).contiguous()


def split(n: int, per: int = 2, places: int = 0, processors: int = 132) -> tuple[int, int]:
    """Channels of a block and how many blocks take n, for `per` frames at a time: see `tiles.split`."""
    return tiles.split(n, COSTS[per], places, processors)


def norms_in_place(n: int) -> bool:
    """Whether the norm over n channels is taken in place: larger clusters than two blocks do not fill the chip."""
    return split(n)[1] <= 2


def choose(n: int, num_frames: int) -> int:
    """How many of `num_frames` frames of n channels to make together, 2 or 4; 0 if the direct kernel is faster.

    Four need frames that `transform` wrote, which only pays where there are many channels to make of them.
    """
    if num_frames % 2 or n < 16:
        return 0
    return 4 if num_frames % 4 == 0 and n >= 256 else 2


def num_products(num_frames: int) -> int:
    """How many frames `transform` makes for so many: six for every four."""
    return num_frames // 4 * 6


def is_safe(weight: Tensor, gamma: Tensor) -> bool:
    """Whether fp16 holds what a convolution with this weight multiplies behind a norm with this gamma.

    A normed pixel's numbers are at most sqrt(C) max |gamma|, what becomes of them less than five times that.
    """
    bound = 5 * weight.shape[1] ** 0.5 * gamma.abs().max().float()
    largest = weight.abs().amax().float()
    return bool((bound < 60000) & (largest < 10000) & (largest > 1e-3))  # NaN is not safe


@lru_cache
def is_supported(device: torch.device) -> bool:
    """Whether the kernel runs on this device: a Hopper GPU, and NVRTC to compile for it. Tried once."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return False
    try:
        frames = PaddedFramePool(1, 1, 8, torch.float16, device)
        weights = torch.zeros(9, 4, 8, 8, dtype=torch.float16, device=device)
        winograd_conv(weights, torch.zeros(8, dtype=torch.bfloat16, device=device), frames, (0,) * 4)
        torch.cuda.synchronize(device)
    except (OSError, RuntimeError, AttributeError) as error:
        log.warning("Winograd convolutions do not work here, so decoding is slower: %s", error)
        return False
    return True


def winograd_conv(
    weights: Tensor,
    bias: Tensor,
    frames: PaddedFrames,
    slots: Slots,
    residual: Tensor | None = None,
    gamma: Tensor | None = None,
    into: tuple[PaddedFrames, Slots] | None = None,
    in_place: bool = False,
    early_halo: EarlyHalo | None = None,
) -> Tensor:
    """The 3x3x3 convolution of fp16 padded frames, for T new ones, two or four at a time: [T, H, W, N] of bias's dtype.

    `weights` come from `pack`, which is told how many. `slots` are those of two past frames and of T present ones,
    or for four at a time those of the T / 4 * 6 that `transform` makes of them. `residual`
    [T, H, W, N] is added, and with `in_place` is where the sum goes: of each tile it is read before the tile is stored,
    by the same block. With `gamma` [N], silu(norm(result)) goes `into` fp16 padded frames, whose data it returns;
    with `early_halo`, the edges before the rest.
    """
    data = frames.data
    _, rows, columns, c = data.shape
    height, width, n, per = rows - 2, columns - 2, bias.shape[0], weights.shape[1] - 2
    num_frames = len(slots) // 6 * 4 if per == 4 else len(slots) - 2
    assert data.dtype == weights.dtype == torch.float16 and num_frames % per == 0, (data.dtype, len(slots))
    assert (gamma is None) == (into is None) and (into is None or into[0].data.dtype == torch.float16)
    if in_place:
        assert residual is not None and residual.dtype == bias.dtype and residual.is_contiguous() and not into
        out = residual
    elif into is not None:
        out = into[0].data
    else:
        out = torch.empty(num_frames, height, width, n, dtype=bias.dtype, device=data.device)
    if out.is_meta:
        return out
    norm, half = gamma is not None, bias.dtype == torch.float16
    assert not norm or (per == 2 and norms_in_place(n)), (per, n)
    shortcut = out if residual is None else residual  # of which nothing is read then
    target = out[:, 1:-1, 1:-1] if norm else out
    table = frames.table(slots)
    pointers = [table, bias, bias if gamma is None else gamma, into[0].table(into[1]) if into else table]
    across, down = -(-width // TILE_COLUMNS), -(-height // TILE_ROWS)
    processors = tiles.processors_of(data.device)
    places = across * down * (num_frames // per)
    channels, blocks = split(n, 2) if norm else split(n, per, places, processors)
    parts = tiles.parts(n, channels, places, c * per, COSTS[per], processors // 2, norm)
    cut = [0, 0, 0]
    if early_halo is not None:
        assert norm, "the sums of four frames leave in two parts"
        cut = [1 + early_halo.columns, early_halo.before, early_halo.after]
        length, other = (across, down) if early_halo.columns else (down, across)
        # Where there is one line of tiles, it is both edges.
        edges = min(early_halo.before + early_halo.after, length) * other * (num_frames // per)
        early_halo.expected = edges * min(blocks, 2) * WARPS
        if parts[-1].dependent and parts[-1].begin < edges:  # which are told of by blocks of one kind
            parts = [parts[0]._replace(end=-(-places // 2) * blocks)]
    finished = ctypes.c_void_p(early_halo.finished.data_ptr() if early_halo is not None else None)
    for part in parts:
        maps = [  # [slots, H + 2, W + 2, C] and [taps, products, N, C]: what lies beyond is read as zero
            nvrtc.tensor_map(data, (DEPTH, TILE_COLUMNS + 2, TILE_ROWS + 2, 1)),
            nvrtc.tensor_map(weights, (DEPTH, part.width, 2, 1)),
            nvrtc.tensor_map(shortcut, (32, 8, 8, 1)),
            nvrtc.tensor_map(target, (32, 8, 2, 1)),
        ]
        numbers = (num_frames, height, width, c, n, part.blocks, across, part.begin, part.end, *cut)
        kernel = kernel_for(part.width, part.joined, per, residual is not None, norm, half)
        clusters = min(part.end - part.begin, processors // 2)  # each takes one tile after another
        addresses = (ctypes.c_void_p(x.data_ptr()) for x in pointers)
        arguments = [*maps, *addresses, *map(ctypes.c_int, numbers), finished]
        kernel.start(clusters, data.device, arguments, part.dependent)
    return out


def kernel_for(width: int, joined: bool, per: int, residual: bool, norm: bool, half: bool) -> nvrtc.Kernel:
    """`winograd.cu` for blocks of this width; `joined` are two whose channels together a norm is over."""
    macros = {"FOUR": per == 4, "RESIDUAL": residual, "NORM": norm, "HALF": half, "PAIR": not joined}
    sums = 2 * 2 * 2 * 128 * 4 if joined else 0
    return nvrtc.Kernel("winograd", width, "f16", tuple(macros.items()), 80 + sums)
