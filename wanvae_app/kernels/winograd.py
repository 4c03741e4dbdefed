"""Causal 3x3x3 convolutions by Winograd's algorithm along time, on Hopper GPUs: packs weights and starts `winograd.cu`.

F(2, 3) makes two frames at a time with two thirds of the multiplications, F(4, 3) four frames with half of them.

Triton cannot read a tile at any offset from shared memory. Without that a Winograd transform costs more traffic than it
saves arithmetic, so the kernel is CUDA C++. The plain equal is `model.layers.CausalConv3d`.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache

import torch
from torch import Tensor

from wanvae_app.kernels.cuda_driver import tensor_map
from wanvae_app.kernels.hopper_kernel import (
    DEPTH,
    INPUT_BOX,
    REGION_COLUMNS,
    REGION_ROWS,
    RESULT_BOX,
    HopperKernel,
)
from wanvae_app.kernels.launch import show
from wanvae_app.kernels.mailbox import EarlyHalo
from wanvae_app.kernels.padded_frames import PaddedFramePool, PaddedFrames, Slots
from wanvae_app.kernels.rounds import Launch, choose_width, count_clusters, plan_launches

log = logging.getLogger(__name__)

# By frames per tile: `costs` as `rounds.py` describes them.
COSTS = {2: {96: 1.0, 64: 0.71, 32: 0.51}, 4: {64: 1.0, 32: 0.66}}
RESIDUAL_BOX = 32, 8, 8, 1  # channels, columns, rows, frames that the copy engine fetches at a time
MULTIPLYING_WARPS = 8  # of a block
POINTS = 11 / 16, 23 / 16  # A and B of F(4, 3): of all whose squares are fp16 numbers, these round least


def pack(weight: Tensor, frames_per_tile: int = 2) -> Tensor:
    """Transform weights [N, C, 3, 3, 3] for the products that make 2 or 4 frames: fp16 [9 taps, 4 or 6, N, C].

    F(2, 3) is Lavin and Gray's (Fast Algorithms for Convolutional Neural Networks, 2015). F(4, 3) is made by the same
    method of Toom and Cook, in other points.
    """
    g0, g1, g2 = weight.float().unbind(2)
    if frames_per_tile == 2:
        products = [g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2]
    else:
        aa, bb = POINTS[0] ** 2, POINTS[1] ** 2
        scales = 2 * aa * (aa - bb), 2 * bb * (bb - aa)
        points = [(p, s) for q, s in zip(POINTS, scales, strict=True) for p in (q, -q)]
        products = [(g0 + p * g1 + p * p * g2) / s for p, s in points] + [g0 / (aa * bb), g2]
    stacked = torch.stack(products)  # products, N, C, kh, kw
    return stacked.permute(3, 4, 0, 1, 2).flatten(0, 1).to(torch.float16).contiguous()


def choose_frames_per_tile(n: int, num_frames: int) -> int:
    """Return how many of `num_frames` frames of n channels to make together: 2 or 4, or 0 for the direct kernel.

    Four need frames that `transform` wrote, which pays only where many channels are made of them.
    """
    if num_frames % 2 or n < 16:
        return 0
    return 4 if num_frames % 4 == 0 and n >= 256 else 2


def norms_in_place(n: int) -> bool:
    """Return whether the kernel takes the norm over n channels: two blocks, a cluster, must hold them."""
    return -(-n // choose_width(n, COSTS[2])) <= 2


def num_transformed(num_frames: int) -> int:
    """Return how many frames `transform` writes for the products of so many frames: six for four."""
    return num_frames // 4 * 6


def is_safe(weight: Tensor, gamma: Tensor) -> bool:
    """Return whether fp16 holds what a convolution with this weight multiplies behind a norm with this gamma.

    A normed pixel's numbers are at most sqrt(C) max |gamma|; transformed ones are less than five times as large.
    """
    bound = 5 * weight.shape[1] ** 0.5 * gamma.abs().max().float()
    largest = weight.abs().amax().float()
    return bool((bound < 60000) & (largest < 10000) & (largest > 1e-3))  # NaN is not safe


@lru_cache
def is_supported(device: torch.device) -> bool:
    """Return whether the kernel runs on this device: a Hopper GPU, with NVRTC to compile for it.

    Compiles and runs the kernel once.
    """
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
    """Convolve fp16 padded frames: return T frames [T, H, W, N] in the dtype of `bias` [N].

    `weights` come from `pack`; their shape says how many frames a tile has. `slots` name two past and T present frames,
    or for four frames per tile the T / 4 * 6 frames that `transform` made of them.

    `residual` [T, H, W, N] is added. With `in_place` the sum is written over it: a block reads a tile of it before it
    stores the same tile.

    With `gamma` [N], for two frames per tile and N that `norms_in_place` allows, silu(norm(result)) is written `into`
    slots of fp16 padded frames, and their data is returned. With `early_halo` the edges are made first and counted.
    """
    data = frames.data
    _, rows, columns, c = data.shape
    height, width, n, frames_per_tile = rows - 2, columns - 2, bias.shape[0], weights.shape[1] - 2
    num_frames = len(slots) // 6 * 4 if frames_per_tile == 4 else len(slots) - 2
    assert data.dtype == weights.dtype == torch.float16, (data.dtype, weights.dtype)
    assert num_frames % frames_per_tile == 0, (len(slots), frames_per_tile)
    assert (gamma is None) == (into is None) and (into is None or into[0].data.dtype == torch.float16)
    if in_place:
        assert residual is not None and residual.dtype == bias.dtype and residual.is_contiguous() and not into
        out = residual
    elif into is not None:
        out = into[0].data
    else:
        out = torch.empty(num_frames, height, width, n, dtype=bias.dtype, device=data.device)
    norm, half = gamma is not None, bias.dtype == torch.float16
    assert not norm or (frames_per_tile == 2 and norms_in_place(n)), (frames_per_tile, n)
    num_clusters, costs = count_clusters(data.device), COSTS[frames_per_tile]
    regions_across, regions_down = -(-width // REGION_COLUMNS), -(-height // REGION_ROWS)
    num_regions = regions_across * regions_down * (num_frames // frames_per_tile)
    block_width = choose_width(n, costs) if norm else choose_width(n, costs, num_regions, num_clusters)
    launches = plan_launches(n, block_width, num_regions, c * frames_per_tile, costs, num_clusters, norm)
    cut = before = after = 0
    if early_halo is not None:
        assert norm, "the sums of four frames leave in two parts"
        cut, before, after = 1 + early_halo.columns, early_halo.before, early_halo.after
        launches = _count_edges(early_halo, launches, regions_across, regions_down, num_regions)
    kernels = [
        kernel_for(launch.width, launch.joined, frames_per_tile, residual is not None, norm, half)
        for launch in launches
    ]
    if out.is_meta:
        for kernel in kernels:
            show(kernel)
        return out
    finished = ctypes.c_void_p(early_halo.finished.data_ptr() if early_halo is not None else None)
    table = frames.table(slots)
    out_table = into[0].table(into[1]) if into else table
    pointers = (table, bias, bias if gamma is None else gamma, out_table)
    read = out if residual is None else residual  # without a residual nothing is read through this map
    written = out[:, 1:-1, 1:-1] if norm else out
    for launch, kernel in zip(launches, kernels, strict=True):
        arguments = [
            tensor_map(data, INPUT_BOX),  # [slots, H + 2, W + 2, C]: what lies beyond is read as zero
            tensor_map(weights, (DEPTH, launch.width, 2, 1)),  # [taps, products, N, C]
            tensor_map(read, RESIDUAL_BOX),
            tensor_map(written, RESULT_BOX),
            *(ctypes.c_void_p(x.data_ptr()) for x in pointers),
            *map(ctypes.c_int, (num_frames, height, width, c, n, launch.num_blocks, regions_across)),
            *map(ctypes.c_int, (launch.begin, launch.end, cut, before, after)),
            finished,
        ]
        clusters = min(launch.end - launch.begin, num_clusters)
        kernel.start(clusters, data.device, arguments, launch.dependent)
    return out


def _count_edges(
    early_halo: EarlyHalo, launches: list[Launch], regions_across: int, regions_down: int, num_regions: int
) -> list[Launch]:
    """Set the number of parts that the edges have. Return the launches, the first of which makes all of them.

    A part is a warp's share of a block: blocks of another width would make other parts.
    """
    lines = regions_across if early_halo.columns else regions_down
    # If there is one line of regions, it is both edges.
    num_edges = min(early_halo.before + early_halo.after, lines) * (num_regions // lines)
    first, last = launches[0], launches[-1]
    early_halo.expected = num_edges * first.num_blocks * MULTIPLYING_WARPS
    if last.dependent and last.begin < num_edges:
        return [first._replace(end=-(-num_regions // 2) * first.num_blocks)]
    return launches


def kernel_for(
    width: int, joined: bool, frames_per_tile: int, residual: bool, norm: bool, half: bool
) -> HopperKernel:
    """Return `winograd.cu` for blocks of this width; `joined` blocks take a norm over their channels together.

    `half` says that bias, residual, gamma and results are fp16, not bf16.
    """
    macros = {
        "FOUR": frames_per_tile == 4,
        "RESIDUAL": residual,
        "NORM": norm,
        "HALF": half,
        "PAIR": not joined,
    }
    sums_bytes = 2 * 2 * 2 * 128 * 4 if joined else 0  # float [2 tiles][2 blocks][2 frames][128 pixels]
    return HopperKernel("winograd", width, "f16", tuple(macros.items()), 80 + sums_bytes)
