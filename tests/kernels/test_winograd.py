"""Convolutions by Winograd's F(2, 3) and F(4, 3) against float64: the algebra everywhere, the kernel on a Hopper GPU.

python -m pytest tests/kernels/test_winograd.py
"""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from support.hopper import DEVICE, needs_hopper
from support.padded import frames_of, frames_to_write, only_wrote
from support.peers import Alone
from support.plain import plain_conv, silu_norm, transformed
from torch import Tensor

from wanvae_app.kernels import rounds, winograd
from wanvae_app.kernels.mailbox import EarlyHalo
from wanvae_app.kernels.packed_weights import matrix_of
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.parallel.partition import COLUMNS, ROWS
from wanvae_app.parallel.shard import Shard

# Relative errors by the dtype that is stored: its rounding, and that of fp16 inputs and weights.
ROUNDING = {torch.bfloat16: 2.5e-3, torch.float16: 6e-4}


def test_four_products_make_two_frames() -> None:
    x, weight = torch.randn(4, 8, 5, 6, dtype=torch.float64), torch.randn(12, 8, 3, 3, 3, dtype=torch.float64)
    four = winograd.pack(weight).double().unflatten(0, (3, 3)).permute(2, 3, 4, 0, 1)
    inputs = [x[0] - x[2], x[1] + x[2], x[2] - x[1], x[1] - x[3]]
    m = [F.conv2d(u[None], w, padding=1)[0] for u, w in zip(inputs, four, strict=True)]
    found = torch.stack([m[0] + m[1] + m[2], m[1] - m[2] - m[3]], 1)
    expected = F.conv3d(x.movedim(0, 1)[None], weight, padding=(0, 1, 1))[0]
    assert distance(found, expected) < 5e-4  # the weights' rounding


def test_six_products_make_four_frames() -> None:
    x, weight = torch.randn(6, 8, 5, 6, dtype=torch.float64), torch.randn(12, 8, 3, 3, 3, dtype=torch.float64)
    six = winograd.pack(weight, 4).double().unflatten(0, (3, 3)).permute(2, 3, 4, 0, 1)
    m = [F.conv2d(u[None], w, padding=1)[0] for u, w in zip(transformed(x), six, strict=True)]
    a, b = winograd.POINTS
    x1, y1, z1, w1 = m[0] + m[1], m[0] - m[1], m[2] + m[3], m[2] - m[3]
    found = [x1 + z1 + m[4], a * y1 + b * w1, a * a * x1 + b * b * z1, a**3 * y1 + b**3 * w1 + m[5]]
    expected = F.conv3d(x.movedim(0, 1)[None], weight, padding=(0, 1, 1))[0]
    assert distance(torch.stack(found, 1), expected) < 1e-3  # the weights' rounding


@pytest.mark.parametrize(("frames_per_tile", "width"), [(2, 32), (2, 64), (2, 96), (4, 32), (4, 64)])
def test_shared_memory_suffices(frames_per_tile: int, width: int) -> None:
    for norm in (False, True)[: 1 + (frames_per_tile == 2)]:
        for joined in (False, True)[: 1 + norm]:
            kernel = winograd.kernel_for(width, joined, frames_per_tile, True, norm, False)
            assert kernel.stages >= 5 and kernel.shared_bytes <= 227 * 1024


@needs_hopper
@pytest.mark.parametrize(
    ("n", "frames_per_tile", "shape"),
    [(384, 4, (4, 180, 160)), (96, 2, (2, 720, 640)), (192, 2, (2, 360, 640))],
)
def test_the_last_tiles_in_narrower_blocks(n: int, frames_per_tile: int, shape: tuple[int, int, int]) -> None:
    num_regions, costs = -(-shape[1] // 8) * -(-shape[2] // 16), winograd.COSTS[frames_per_tile]
    width = rounds.choose_width(n, costs, num_regions)
    launches = rounds.plan_launches(n, width, num_regions, n * frames_per_tile, costs, rounds.H100_CLUSTERS)
    assert len(launches) == 2
    check(torch.bfloat16, n, n, shape, frames_per_tile)


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("c", "n"),
    [
        (8, 8),
        (16, 24),
        (40, 96),
        (96, 96),
        (96, 104),
        (192, 192),
        (192, 384),
        (256, 256),
        (160, 320),
        (384, 384),
    ],
)
@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 1, 40), (4, 9, 1), (2, 8, 16), (6, 17, 33), (8, 7, 19)])
def test_convolution(dtype: torch.dtype, c: int, n: int, shape: tuple[int, int, int]) -> None:
    for frames_per_tile in (2, 4)[: 2 - shape[0] // 2 % 2]:
        check(dtype, c, n, shape, frames_per_tile)


@needs_hopper
@pytest.mark.parametrize(("c", "n"), [(8, 8), (96, 96), (64, 192)])
def test_many_tiles_for_each_multiprocessor(c: int, n: int) -> None:
    check(torch.bfloat16, c, n, (6, 130, 210), 2)
    check(torch.bfloat16, c, n, (8, 130, 210), 4)


@needs_hopper
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("dim", [ROWS, COLUMNS])
@pytest.mark.parametrize(("c", "n"), [(16, 96), (96, 192), (64, 24)])
@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 9, 40), (4, 24, 16), (2, 300, 500)])
def test_edges_travel_before_all_is_done(
    rank: int, dim: int, c: int, n: int, shape: tuple[int, int, int]
) -> None:
    """One side of the exchange: what the neighbours send is there already."""
    num_frames, height, width = shape
    bf16 = {"dtype": torch.bfloat16, "device": DEVICE}
    x = torch.randn(num_frames + 2, height, width, c, dtype=torch.float16, device=DEVICE)
    weight = winograd.pack(torch.randn(n, c, 3, 3, 3, **bf16) / (27 * c) ** 0.5)
    bias, gamma = torch.randn(n, **bf16), torch.randn(n, **bf16)
    frames, slots = frames_of(x)
    into = PaddedFramePool(height, width, n, torch.float16, DEVICE)
    into.reserve(0, num_frames + 1)
    new = into.take(num_frames + 1)[:0:-1]
    neighbours = Alone(rank, 3, DEVICE)
    shard = Shard(dim, (0, 1, 2, 3), rank, None, neighbours)

    def exchange(early_halo: EarlyHalo | None) -> None:
        into.data[1:, 1:-1, 1:-1] = 7
        winograd.winograd_conv(weight, bias, frames, slots, None, gamma, (into, new), early_halo=early_halo)
        shard.fill_halo(into.data, into.table(new), early_halo)

    sides = {"before": 1} if rank == 2 else {"after": -2} if rank == 0 else {"before": 1, "after": -2}
    lines = into.data.movedim(dim - 2, 0)
    theirs = {side: torch.randn_like(lines[0, list(new)]).view(torch.int64) for side in sides}
    for side, words in theirs.items():
        neighbours.hear(side, [words] * 2)
    exchange(None)
    expected = into.data.clone()
    graph = torch.cuda.CUDAGraph()
    for sequence in range(4):
        for side, words in theirs.items():
            neighbours._mailboxes[0].pointers[f"out_{side}_flags"].zero_()
            neighbours.hear(side, [words] * 2)
        shard.sequence = 0
        early_halo = shard.early_halo()
        assert early_halo is not None
        if sequence < 2:
            exchange(early_halo)
        elif sequence == 2:
            with torch.cuda.graph(graph):
                exchange(early_halo)
        if sequence >= 2:
            graph.replay()
        assert early_halo.expected > 0 or sequence == 3
        torch.cuda.synchronize()
        assert torch.equal(into.data, expected)
        assert neighbours._finished.tolist() == [0, 0]
        for side, at in sides.items():
            mine = lines[at, list(new)].contiguous().view(torch.int64).flatten()
            assert torch.equal(neighbours.told(side, 0, mine.numel()), mine)


@needs_hopper
def test_narrower_blocks() -> None:
    """Pictures for which `choose_width` returns each width."""
    for frames_per_tile, shape, width in (
        (2, (2, 120, 104), 64),
        (2, (2, 8, 16), 32),
        (4, (4, 8, 16), 32),
        (4, (4, 120, 208), 64),
    ):
        num_regions = -(-shape[1] // 8) * -(-shape[2] // 16)
        assert rounds.choose_width(384, winograd.COSTS[frames_per_tile], num_regions) == width
        check(torch.bfloat16, 64, 384, shape, frames_per_tile)


def check(dtype: torch.dtype, c: int, n: int, shape: tuple[int, int, int], frames_per_tile: int) -> None:
    """Assert that the kernel's results are those of float64: alone, with a residual, and behind norm and SiLU."""
    num_frames, height, width = shape
    torch.manual_seed(c + n)
    x = F.silu(torch.randn(num_frames + 2, height, width, c, device=DEVICE)).half()
    weight = torch.randn(n, c, 3, 3, 3, device=DEVICE) / (27 * c) ** 0.5
    bias, gamma = (torch.randn(n, device=DEVICE).to(dtype) for _ in range(2))
    residual = torch.randn(num_frames, height, width, n, device=DEVICE).to(dtype)
    frames, slots = frames_of(transformed(x.float()).half() if frames_per_tile == 4 else x)
    weights, expected = winograd.pack(weight, frames_per_tile), plain_conv(x, weight, bias)
    found = winograd.winograd_conv(weights, bias, frames, slots)
    assert found.dtype == dtype and distance(found, expected) < ROUNDING[dtype]
    found = winograd.winograd_conv(weights, bias, frames, slots, residual=residual)
    assert distance(found, expected + residual.double()) < ROUNDING[dtype]
    winograd.winograd_conv(weights, bias, frames, slots, residual=residual, in_place=True)
    assert torch.equal(residual, found)
    if frames_per_tile == 2 and winograd.norms_in_place(n):
        into, targets = frames_to_write(residual, n, torch.float16)
        winograd.winograd_conv(weights, bias, frames, slots, gamma=gamma, into=(into, targets))
        padded = F.pad(silu_norm(expected, gamma), (0, 0, 1, 1, 1, 1))
        assert distance(into.data[list(targets)], padded) < 1e-3
        assert only_wrote(into, targets)


def test_what_fp16_does_not_hold_is_refused() -> None:
    weight, gamma = torch.randn(16, 96, 3, 3, 3) / 50, torch.ones(96)
    assert winograd.is_safe(weight, gamma)
    for w, g in ((weight, gamma * 4000), (weight * 1e6, gamma), (weight * 1e-6, gamma), (weight, gamma / 0)):
        assert not winograd.is_safe(w, g)


@needs_hopper
def test_it_works_here() -> None:
    assert winograd.is_supported(torch.device("cuda", 0))


@needs_hopper
@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_direct_kernel_takes_the_same_frames(num_frames: int) -> None:
    """fp16 frames and weights with bf16 bias, residual and results, for odd numbers of frames."""
    direct_conv = pytest.importorskip("wanvae_app.kernels.direct_conv").direct_conv
    x = F.silu(torch.randn(num_frames + 2, 9, 17, 96, device=DEVICE)).half()
    weight, bias = torch.randn(96, 96, 3, 3, 3, device=DEVICE) / 50, torch.randn(96, device=DEVICE).bfloat16()
    residual = torch.randn(num_frames, 9, 17, 96, device=DEVICE).bfloat16()
    frames, slots = frames_of(x)
    matrix = matrix_of(weight.half())
    found = direct_conv(matrix, bias, (3, 3, 3), frames, slots, residual)
    expected = plain_conv(x, weight, bias)
    assert found.dtype == bias.dtype and distance(found, expected + residual.double()) < 2.5e-3
    into = PaddedFramePool(9, 17, 96, torch.float16, DEVICE)
    targets = into.take(num_frames)
    direct_conv(matrix, bias, (3, 3, 3), frames, slots, gamma=bias, into=(into, targets))
    padded = F.pad(silu_norm(expected, bias), (0, 0, 1, 1, 1, 1))
    assert distance(into.data[list(targets)], padded) < 1e-3


@needs_hopper
def test_past_that_is_not_there_is_zero() -> None:
    x = torch.randn(2, 5, 6, 16, device=DEVICE).half()
    weight, bias = torch.randn(24, 16, 3, 3, 3, device=DEVICE) / 20, torch.randn(24, device=DEVICE).half()
    frames, slots = frames_of(x)
    found = winograd.winograd_conv(winograd.pack(weight), bias, frames, (0, 0, *slots))
    assert distance(found, plain_conv(F.pad(x, (0, 0) * 3 + (2, 0)), weight, bias)) < ROUNDING[torch.float16]


@needs_hopper
def test_the_same_again_and_in_a_graph() -> None:
    """No race shows: many launches, the same bits; and a captured launch is the same."""
    x = torch.randn(6, 45, 80, 192, device=DEVICE).half()
    weight, bias = (
        torch.randn(192, 192, 3, 3, 3, device=DEVICE) / 70,
        torch.randn(192, device=DEVICE).bfloat16(),
    )
    frames, slots = frames_of(x)
    weights, into = winograd.pack(weight), PaddedFramePool(45, 80, 192, torch.float16, DEVICE)
    targets = into.take(4)

    def both() -> Tensor:
        into.data.zero_()
        out = winograd.winograd_conv(weights, bias, frames, slots)
        winograd.winograd_conv(weights, bias, frames, slots, gamma=bias, into=(into, targets))
        return out

    first, normed_first = both(), into.data.clone()
    for _ in range(20):
        assert torch.equal(both(), first) and torch.equal(into.data, normed_first)
    elsewhere: list[Tensor] = []
    thread = threading.Thread(target=lambda: elsewhere.append(both()))  # it has no context yet
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert torch.equal(elsewhere[0], first)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    captured.zero_()
    graph.replay()
    assert torch.equal(captured, first) and torch.equal(into.data, normed_first)
