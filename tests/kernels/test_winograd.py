"""Convolutions by Winograd's F(2, 3) and F(4, 3) against float64: the algebra everywhere, the kernel on a Hopper GPU.

python -m pytest tests/kernels/test_winograd.py
"""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from support.transform import transformed
from torch import Tensor

pytest.importorskip("triton")  # none for this platform
from support.peers import Alone

from wanvae_app.kernels import tiles
from wanvae_app.kernels.mailbox import EarlyHalo
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.parallel.partition import COLUMNS, ROWS
from wanvae_app.parallel.shard import Shard

winograd = pytest.importorskip("wanvae_app.kernels.winograd")
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_hopper = pytest.mark.skipif(not HOPPER, reason="the kernel needs a Hopper GPU")
DEVICE = torch.device("cuda" if HOPPER else "cpu")
# What fp16 inputs and weights cost, and the rounding of what is stored.
ROUNDING = {torch.bfloat16: 2.5e-3, torch.float16: 6e-4}


def frames_of(x: Tensor) -> tuple[PaddedFramePool, tuple[int, ...]]:
    """x [T H W C] in fp16 padded frames, not in order; what was never written must not be read."""
    frames = PaddedFramePool(x.shape[1], x.shape[2], x.shape[3], torch.float16, DEVICE)
    slots = frames.take(len(x) + 2)[::-1][: len(x)]
    frames.data[1:, 1:-1, 1:-1] = float("nan")
    frames.data[list(slots), 1:-1, 1:-1] = x
    return frames, slots


def plain_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = F.conv3d(x.double().movedim(-1, 0)[None], weight.double(), bias.double(), padding=(0, 1, 1))
    return out[0].movedim(0, -1)


def normed(x: Tensor, gamma: Tensor) -> Tensor:
    return F.silu(x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-24) * gamma.double())


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
    a, b = winograd.POINTS
    m = [F.conv2d(u[None], w, padding=1)[0] for u, w in zip(transformed(x), six, strict=True)]
    a, b = winograd.POINTS
    x1, y1, z1, w1 = m[0] + m[1], m[0] - m[1], m[2] + m[3], m[2] - m[3]
    found = [x1 + z1 + m[4], a * y1 + b * w1, a * a * x1 + b * b * z1, a**3 * y1 + b**3 * w1 + m[5]]
    expected = F.conv3d(x.movedim(0, 1)[None], weight, padding=(0, 1, 1))[0]
    assert distance(torch.stack(found, 1), expected) < 1e-3  # the weights' rounding


@pytest.mark.parametrize("n", [8, 96, 160, 192, 256, 320, 384, 512, 640, 1024])
@pytest.mark.parametrize("per", [2, 4])
def test_blocks_hold_all_channels(n: int, per: int) -> None:
    for places in (0, 1, 30, 105, 3600):
        width, blocks = winograd.split(n, per, places)
        assert width % 32 == 0 and width <= 96 and n <= width * blocks < n + 96
        for norm in (False, True)[: 1 + (per == 2 and not places and winograd.norms_in_place(n))]:
            kernel = winograd.kernel_for(width, norm and blocks > 1, per, True, norm, False)
            assert kernel.stages >= 5 and kernel.memory() <= 227 * 1024


def test_few_tiles_are_shared_evenly() -> None:
    """105 places of 384 channels, 66 pairs of multiprocessors: four blocks take four rounds, six shorter ones five."""
    assert winograd.split(384, 2) == winograd.split(384, 2, 3600) == (96, 4)
    assert winograd.split(384, 2, 105) == (64, 6)


def parts_of(n: int, per: int, places: int, norm: bool, clusters: int = 66) -> list[tiles.Part]:
    width, _ = winograd.split(n, 2) if norm else winograd.split(n, per, places, 2 * clusters)
    return tiles.parts(n, width, places, 384 * per, winograd.COSTS[per], clusters, norm)


@pytest.mark.parametrize("clusters", [4, 66])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("n", "per"), [(8, 2), (96, 2), (96, 4), (192, 2), (256, 4), (384, 2), (384, 4)])
def test_parts_take_every_tile_once(n: int, per: int, norm: bool, clusters: int) -> None:
    if norm and (per == 4 or not winograd.norms_in_place(n)):
        pytest.skip("no norm takes so many channels in place")
    for places in (1, 7, 30, 66, 69, 151, 230, 460, 901, 1800):
        taken = torch.zeros(places + 1, n)
        for part in parts_of(n, per, places, norm, clusters):
            for tile in range(part.begin, part.end):
                for rank in (0, 1):  # as `winograd.cu` counts
                    where = tile if part.joined else tile // part.blocks * 2 + rank
                    first = (rank if part.joined else tile % part.blocks) * part.width
                    taken[where, first : first + part.width] += 1
        assert (taken[:places] == 1).all()


def test_what_is_left_for_few_clusters_goes_to_more() -> None:
    """690 tiles of 64 channels on 66 clusters: ten rounds, and 30 tiles that become 60 of 32."""
    wide, narrow = parts_of(384, 4, 230, False)
    assert (wide.width, wide.end, narrow.width, narrow.end - narrow.begin) == (64, 660, 32, 60)
    assert len(parts_of(384, 4, 330, False)) == 1  # 990 are fifteen rounds
    wide, narrow = parts_of(96, 2, 3600, True)  # a norm's channels stay together
    assert (wide.end, narrow.width, narrow.joined, narrow.end - narrow.begin) == (1782, 64, True, 36)


@needs_hopper
@pytest.mark.parametrize(
    ("n", "together", "shape"), [(384, 4, (4, 180, 160)), (96, 2, (2, 720, 640)), (192, 2, (2, 360, 640))]
)
def test_the_last_tiles_in_narrower_blocks(n: int, together: int, shape: tuple[int, int, int]) -> None:
    places = -(-shape[1] // 8) * -(-shape[2] // 16)
    assert len(parts_of(n, together, places, False)) == 2
    check(torch.bfloat16, n, n, shape, together)


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
    for together in (2, 4)[: 2 - shape[0] // 2 % 2]:
        check(dtype, c, n, shape, together)


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
    """Pictures for which `split` chooses each width."""
    for together, shape, width in (
        (2, (2, 120, 104), 64),
        (2, (2, 8, 16), 32),
        (4, (4, 8, 16), 32),
        (4, (4, 120, 208), 64),
    ):
        places = -(-shape[1] // 8) * -(-shape[2] // 16)
        assert winograd.split(384, together, places)[0] == width
        check(torch.bfloat16, 64, 384, shape, together)


def check(dtype: torch.dtype, c: int, n: int, shape: tuple[int, int, int], together: int) -> None:
    num_frames, height, width = shape
    torch.manual_seed(c + n)
    x = F.silu(torch.randn(num_frames + 2, height, width, c, device=DEVICE)).half()
    weight = torch.randn(n, c, 3, 3, 3, device=DEVICE) / (27 * c) ** 0.5
    bias, gamma = (torch.randn(n, device=DEVICE).to(dtype) for _ in range(2))
    residual = torch.randn(num_frames, height, width, n, device=DEVICE).to(dtype)
    frames, slots = frames_of(transformed(x.float()).half() if together == 4 else x)
    weights, expected = winograd.pack(weight, together), plain_conv(x, weight, bias)
    found = winograd.winograd_conv(weights, bias, frames, slots)
    assert found.dtype == dtype and distance(found, expected) < ROUNDING[dtype]
    found = winograd.winograd_conv(weights, bias, frames, slots, residual=residual)
    assert distance(found, expected + residual.double()) < ROUNDING[dtype]
    winograd.winograd_conv(weights, bias, frames, slots, residual=residual, in_place=True)
    assert torch.equal(residual, found)
    if together == 2 and winograd.norms_in_place(n):
        into = PaddedFramePool(height, width, n, torch.float16, DEVICE)
        targets = into.take(num_frames + 2)[2:]
        into.data[1:, 1:-1, 1:-1] = float("nan")
        winograd.winograd_conv(weights, bias, frames, slots, gamma=gamma, into=(into, targets))
        padded = F.pad(normed(expected, gamma), (0, 0, 1, 1, 1, 1))
        assert distance(into.data[list(targets)], padded) < 1e-3
        assert into.data[1].isnan().any() and not into.data[0].any()  # nobody wrote elsewhere


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
    launchers = pytest.importorskip("wanvae_app.kernels.launchers")
    x = F.silu(torch.randn(num_frames + 2, 9, 17, 96, device=DEVICE)).half()
    weight, bias = torch.randn(96, 96, 3, 3, 3, device=DEVICE) / 50, torch.randn(96, device=DEVICE).bfloat16()
    residual = torch.randn(num_frames, 9, 17, 96, device=DEVICE).bfloat16()
    frames, slots = frames_of(x)
    matrix = weight.half().permute(0, 2, 3, 4, 1).flatten(1).contiguous()
    found = launchers.conv(matrix, bias, (3, 3, 3), frames, slots, residual)
    expected = plain_conv(x, weight, bias)
    assert found.dtype == bias.dtype and distance(found, expected + residual.double()) < 2.5e-3
    into = PaddedFramePool(9, 17, 96, torch.float16, DEVICE)
    targets = into.take(num_frames)
    launchers.conv(matrix, bias, (3, 3, 3), frames, slots, gamma=bias, into=(into, targets))
    padded = F.pad(normed(expected, bias), (0, 0, 1, 1, 1, 1))
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
