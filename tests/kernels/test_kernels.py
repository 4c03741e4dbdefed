"""Every Triton kernel against its plain equal: on a GPU as it is, elsewhere in Triton's interpreter.

python -m pytest tests/kernels/test_kernels.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from support.grouped import run_group
from support.transform import transformed
from torch import Tensor

from wanvae_app.codec import decode_chunks, encode_chunks, to_uint8
from wanvae_app.config import PRESETS
from wanvae_app.fast import layers as fused
from wanvae_app.kernels import tiles
from wanvae_app.kernels.packed_weights import folded
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import PixelNorm, ResidualBlock, Upsample, add_duplicate_up
from wanvae_app.model.vae import Head, WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import COLUMNS, ROWS, WHOLE, Shard

launchers = pytest.importorskip("wanvae_app.kernels.launchers")  # no Triton for this platform
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
pytestmark = pytest.mark.skipif(
    GPU and torch.cuda.get_device_capability() < (9, 0), reason="the kernels need a Hopper GPU or later"
)
# The interpreter multiplies float32; on a GPU bf16's own rounding is what is left.
DTYPE, TOLERANCE = (torch.bfloat16, 4e-3) if GPU else (torch.float32, 2e-6)
WIDE = [(96, 96), (192, 192), (192, 384), (384, 384), (160, 320), (256, 256), (640, 640), (1024, 1024)]


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    launchers.elsewhere = not GPU
    yield
    launchers.elsewhere = False


def random(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(DTYPE)


def frames_of(x: Tensor, spare: int = 1) -> tuple[PaddedFramePool, tuple[int, ...]]:
    """x [T H W C] in padded frames, not in order."""
    frames = PaddedFramePool(x.shape[1], x.shape[2], x.shape[3], DTYPE, DEVICE)
    slots = frames.take(len(x) + spare)[::-1][: len(x)]
    frames.data[1:, 1:-1, 1:-1] = float("nan")  # what was never written must not be read
    frames.data[list(slots), 1:-1, 1:-1] = x
    return frames, slots


def plain_conv(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int, int]) -> Tensor:
    """The convolution of x [T H W C] in float64, as [T H W N]."""
    out = F.conv3d(x.double().movedim(-1, 0)[None], weight.double(), bias.double(), padding=padding)
    return out[0].movedim(0, -1)


def normed(x: Tensor, gamma: Tensor) -> Tensor:
    norm = PixelNorm(len(gamma))
    norm.gamma.data = gamma.double()
    return F.silu(norm(x.movedim(-1, 0)[None]))[0].movedim(0, -1)


@pytest.mark.parametrize(
    ("c", "n"), [(16, 24), (24, 48), (8, 96), (48, 12), (64, 32), *(WIDE if GPU else [])]
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (2, 3, 7), (3, 17, 19), (4, 5, 1)])
def test_convolution(c: int, n: int, shape: tuple[int, int, int]) -> None:
    num_frames, height, width = shape
    torch.manual_seed(num_frames + c)
    x = random(num_frames + 2, height, width, c)
    weight, bias, gamma = random(n, c, 3, 3, 3) / (27 * c) ** 0.5, random(n), random(n)
    residual = random(num_frames, height, width, n)
    frames, slots = frames_of(x)
    matrix = weight.permute(0, 2, 3, 4, 1).flatten(1).contiguous()
    expected = plain_conv(x, weight, bias, (0, 1, 1))
    taps = (3, 3, 3)
    assert distance(launchers.convolve(matrix, bias, taps, frames, slots), expected) < TOLERANCE
    found = launchers.convolve(matrix.chunk(3, 1)[2], bias, (1, 3, 3), frames, slots[2:])
    assert distance(found, plain_conv(x[2:], weight[:, :, 2:], bias, (0, 1, 1))) < TOLERANCE
    found = launchers.convolve(matrix, bias, taps, frames, slots, residual=residual)
    assert distance(found, expected + residual.double()) < TOLERANCE
    launchers.convolve(matrix, bias, taps, frames, slots, residual=residual, in_place=True)
    assert torch.equal(residual, found)
    if tiles.fits_one_tile(n) and n % 8 == 0:
        into = PaddedFramePool(height, width, n, DTYPE, DEVICE)
        targets = into.take(num_frames + 2)[2:]
        into.data[1:, 1:-1, 1:-1] = float("nan")
        launchers.convolve(matrix, bias, taps, frames, slots, gamma=gamma, into=(into, targets))
        padded = F.pad(normed(expected, gamma), (0, 0, 1, 1, 1, 1))
        assert distance(into.data[list(targets)], padded) < TOLERANCE
        assert into.data[1].isnan().any() and not into.data[0].any()  # nobody wrote elsewhere


@pytest.mark.parametrize("frames_at_once", [1, 2, 4])
@pytest.mark.parametrize("num_frames", [1, 2, 4, 6])
def test_frames_at_once(frames_at_once: int, num_frames: int) -> None:
    x, weight, bias = random(num_frames + 2, 5, 6, 16), random(48, 16, 3, 3, 3) / 20, random(48)
    frames, slots = frames_of(x)
    tile = tiles.Tile(frames_at_once, 64, 32, 16, 16, 4, 2)
    found = launchers.convolve(
        weight.permute(0, 2, 3, 4, 1).flatten(1).contiguous(), bias, (3, 3, 3), frames, slots, tile=tile
    )
    assert distance(found, plain_conv(x, weight, bias, (0, 1, 1))) < TOLERANCE


def test_few_pixels_are_done_in_few_rounds() -> None:
    def tile(num_frames: int, height: int, width: int) -> tuple[int, int]:
        found = tiles.choose_tile(384, 384, num_frames, height * (width + 2), residual=False)
        return found.pixels, found.channels + (found.more if found.more > 1 else 0)

    assert tile(1, 60, 104) == tile(1, 90, 80) == (64, 192), "all of them at once, two on a multiprocessor"
    assert tile(1, 90, 160) == (128, 192), "two rounds, not three"
    assert tile(1, 100, 100) == (128, 128), "no fewer rounds, or no longer ones"
    assert tile(2, 180, 320) == (256, 128)


@pytest.mark.parametrize("c", [8, 24, 96, 160, 384, 1024])
def test_activation(c: int) -> None:
    x, gamma = random(2, 3, 5, c), random(c)
    x[0, 0, 0] = 0  # zeros stay zeros
    for with_norm, spare in ((True, 0), (False, 0), (True, 8), (False, 5)):
        into = PaddedFramePool(3, 5, c + spare, DTYPE, DEVICE)
        slots = into.take(3)[1:]
        into.data[1:, 1:-1, 1:-1] = float("nan")
        launchers.activate(x, gamma if with_norm else None, into, slots)
        expected = normed(x.double(), gamma) if with_norm else x
        assert distance(into.data[list(slots)], F.pad(expected, (0, spare, 1, 1, 1, 1))) < TOLERANCE
        assert into.data[1].isnan().any()  # nobody wrote elsewhere


class Peers(Shard):
    """One rank among three, whose neighbours send `theirs` and keep what they are sent."""

    def __init__(self, dim: int, rank: int, theirs: tuple[Tensor, Tensor]) -> None:
        super().__init__(dim, (0, 1, 2, 3), rank, None)
        self.theirs, self.mine = theirs, list[Tensor]()

    def swap(self, first: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        self.mine = [first.clone(), final.clone()]
        return self.theirs


@pytest.mark.parametrize("rank", [None, 0, 1, 2])
@pytest.mark.parametrize("cut", [ROWS, COLUMNS])
@pytest.mark.parametrize(
    ("c", "shape"),
    [(8, (4, 3, 5)), (96, (8, 1, 4)), (160, (4, 5, 1)), (1024, (12, 3, 5)), (8, (8, 2, 2)), (8, (4, 70, 66))],
)
def test_activation_transformed_for_winograd(
    c: int, shape: tuple[int, int, int], cut: int, rank: int | None
) -> None:
    num_frames, height, width = shape
    x, gamma, past = random(*shape, c), random(c), random(2, height + 2, width + 2, c)
    outside = F.pad(torch.zeros(height, width, 1, device=DEVICE), (0, 0, 1, 1, 1, 1), value=1.0).bool()
    lines = outside.movedim(cut - 3, 0)  # there only a neighbour's rows make the border anything but zeros
    lines[0, 1:-1], lines[-1, 1:-1] = rank not in (1, 2), rank not in (0, 1)
    past.masked_fill_(outside, 0)
    count = num_frames // 4 * 6
    frames = PaddedFramePool(height, width, c, DTYPE, DEVICE)
    slots = frames.take(6 + count)[2:][::-1]
    frames.data[1:, 1:-1, 1:-1] = float("nan")
    frames.data[list(slots[:2])] = past
    expected = F.pad(normed(x.double(), gamma).to(DTYPE).double(), (0, 0, 1, 1, 1, 1))
    length = width if cut == ROWS else height
    theirs = random(2, length, num_frames, c)
    shard = WHOLE if rank is None else Peers(cut, rank, (theirs[0], theirs[1]))
    launchers.transform(x, gamma, frames, slots, shard)
    edges = expected.movedim(cut - 2, 0)  # as past frames, rounded
    if isinstance(shard, Peers):
        sides = [(0, 1, 0)] * (rank != 0) + [(1, -2, -1)] * (rank != 2)
        for side, own, border in sides:
            assert distance(shard.mine[side].movedim(1, 0), edges[own, :, 1:-1]) < TOLERANCE
            edges[border, :, 1:-1] = theirs[side].movedim(1, 0).double()
    found = frames.data[list(slots)].double()
    assert torch.equal(found[:2], past.double())
    assert frames.data[1:3, 1:-1, 1:-1].isnan().all()  # nobody wrote elsewhere
    assert distance(found[-2:], expected[-2:]) < TOLERANCE
    assert distance(found[2:-2], transformed(torch.cat([past.double(), expected]))) < TOLERANCE


@pytest.mark.parametrize("shares", [None, 2, 3])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 130), (129, 129), (300, 65), (9, 2050)])
def test_attention(queries: int, keys: int, shares: int | None) -> None:
    q, kv = random(2, queries, 384), random(2, keys, 768)
    k, v = kv.chunk(2, 2)
    expected = F.scaled_dot_product_attention(*(x.double()[:, None] for x in (q, k, v)))[:, 0]
    assert distance(launchers.attend(q, k, v, shares), expected) < TOLERANCE


@pytest.mark.parametrize(("n", "shape"), [(3, (1, 1, 1)), (3, (4, 5, 33)), (12, (2, 9, 7)), (1, (3, 40, 3))])
def test_sum_of_shifted_products(n: int, shape: tuple[int, int, int]) -> None:
    num_frames, height, width = shape
    pixels = (height + 2) * (width + 2)
    products = random(num_frames, 27 * n, pixels + 5)
    bias = random(n)
    taps = F.pad(products[:, :, :pixels].double(), (0, 0) * 2 + (2, 0))
    taps = taps.view(-1, 3, 3, 3, n, height + 2, width + 2)
    expected = bias.double() + sum(
        taps[t : t + num_frames, t, h, w, :, h : h + height, w : w + width].movedim(1, -1)
        for t in range(3)
        for h in range(3)
        for w in range(3)
    )
    found = random(num_frames, height, width, n)
    due = torch.zeros(2, height, width, n, device=DEVICE)
    for some, out in zip(products, found, strict=True):
        launchers.sum_shifted(some, bias, due, out)
    assert distance(found, expected) < TOLERANCE


@pytest.mark.parametrize("rows", [1, 2, 99])
@torch.no_grad()
def test_head_in_strips(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norm, SiLU and a convolution to three channels, so many rows at a time, chunk after chunk."""
    monkeypatch.setattr(fused, "PRODUCTS", rows * 81 * 9 * DTYPE.itemsize)
    torch.manual_seed(rows)
    layer, x = Head(16, 3), torch.randn(1, 16, 5, 5, 7)
    plain, fast = ClipState(), ClipState()
    launchers.elsewhere = False
    expected = layer.double()(x.double(), plain)
    launchers.elsewhere = not GPU
    layer.to(DEVICE, DTYPE)
    found = [layer(part.to(DEVICE, DTYPE), fast).cpu() for part in x.split([1, 2, 2], 2)]
    assert distance(torch.cat(found, 2), expected) < 2 * TOLERANCE


@pytest.mark.parametrize(("time", "channels"), [(1, 1), (1, 2), (1, 8), (2, 1), (2, 2), (2, 4), (3, 5)])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("n", "shape"),
    [(24, (1, 1, 1)), (8, (2, 1, 5)), (80, (3, 7, 1)), (24, (2, 9, 17)), *[(512, (2, 45, 37))] * GPU],
)
def test_shortcut_around_upsampling(
    time: int, channels: int, first: bool, n: int, shape: tuple[int, int, int]
) -> None:
    """In one piece and in parts that begin anywhere, at the clip's start and later."""
    torch.manual_seed(n + channels)
    late = time - 1 if first else 0
    count = shape[0] * time - late
    x, skip = random(count, *shape[1:], 16), random(*shape, channels * n)
    weight, bias = random(n, 16, 3, 3) / 12, random(n)
    enlarged = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
    expected = plain_conv(enlarged, weight[:, :, None], bias, (0, 1, 1)).movedim(-1, 0)[None]
    state = ClipState()
    state.first = first
    add_duplicate_up(expected, skip.double().movedim(-1, 0)[None], time, 2, state)
    frames, slots = frames_of(x)
    matrix = folded(weight)
    for sizes in ([count], [1] * count, [2] * (count // 2) + [1] * (count % 2)):
        shortcut, pieces, done = launchers.Shortcut(skip, time, late), [], 0
        for size in sizes:
            part = slots[done : done + size]
            pieces.append(launchers.convolve(matrix, bias, (1, 2, 2), frames, part, up=2, shortcut=shortcut))
            shortcut, done = shortcut.after(size), done + size
        assert shortcut is None and done == count
        assert distance(torch.cat(pieces), expected[0].movedim(0, -1)) < 2 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("time", "channels"), [(1, 2), (2, 2), (2, 1), (1, 4)])
def test_shortcut_of_16_bits_is_the_number_itself(dtype: torch.dtype, time: int, channels: int) -> None:
    skip = torch.randn(2, 3, 5, channels * 24).to(DEVICE, dtype)
    frames = PaddedFramePool(3, 5, 16, dtype, DEVICE)
    slots = frames.take(2 * time)
    frames.data.zero_()
    zeros = torch.zeros(4 * 24, 4 * 16, dtype=dtype, device=DEVICE)
    shortcut = launchers.Shortcut(skip, time, 0)
    found = launchers.convolve(zeros, zeros[:24, 0], (1, 2, 2), frames, slots, up=2, shortcut=shortcut)
    state = ClipState()
    state.first = False
    expected = torch.zeros(1, 24, 2 * time, 6, 10, dtype=dtype, device=DEVICE)
    add_duplicate_up(expected, skip.movedim(-1, 0)[None], time, 2, state)
    assert torch.equal(found, expected[0].movedim(0, -1))


@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("temporal", [True, False])
@torch.no_grad()
def test_upsampling(temporal: bool, channels: int) -> None:
    layer = Upsample(16, 24, temporal)
    x, skip = torch.randn(1, 16, 5, 3, 4), torch.randn(1, 24 * channels, 5, 3, 4)

    def parts(dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
        for some, around in zip(x.split([1, 2, 2], 2), skip.split([1, 2, 2], 2), strict=True):
            yield some.to(device, dtype), around.to(device, dtype) if channels else None

    plain, fast = ClipState(), ClipState()
    layer.double()
    launchers.elsewhere = False
    expected = []
    for part, around in parts(torch.float64, torch.device("cpu")):
        expected.append(layer(part, plain, around))
        plain.first = False
    launchers.elsewhere = not GPU
    layer.to(DEVICE, DTYPE)
    for (part, around), whole in zip(parts(DTYPE, DEVICE), expected, strict=True):
        assert distance(layer(part, fast, around).cpu(), whole) < 2 * TOLERANCE
        fast.first = False


@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("temporal", [True, False])
@torch.no_grad()
def test_upsampling_in_parts(temporal: bool, channels: int) -> None:
    layer = Upsample(16, 24, temporal).to(DEVICE, DTYPE)
    whole, parts = ClipState(), ClipState()
    for x in torch.randn(1, 16, 10, 3, 4).to(DEVICE, DTYPE).split([1, 3, 2, 4], 2):
        skip = random(1, *x.shape[2:], 24 * channels).movedim(-1, 1) if channels else None
        expected = layer(x, whole, skip)
        pieces = list(fused.upsampled(layer.conv, layer.time_conv, x, parts, 2, skip))
        assert distance(torch.cat(pieces, 2), expected) < TOLERANCE
        assert not temporal or max(piece.shape[2] for piece in pieces) <= 2
        whole.first = parts.first = False
    assert all(
        pool._at_once <= 6 and len(pool.data) == 1 + 2 * temporal + pool._at_once for pool in parts.pools
    )


@pytest.mark.parametrize("width", [16, 24])
@torch.no_grad()
def test_a_block_writes_over_what_it_may(width: int) -> None:
    blocks = [ResidualBlock(16, width), ResidualBlock(width, width)]
    for block in blocks:
        block.to(DEVICE, DTYPE)
    kept, can_overwrite = ClipState(), ClipState()
    for x in torch.randn(1, 5, 3, 4, 16).to(DEVICE, DTYPE).movedim(-1, 1).split([1, 2, 2], 2):
        before = x.clone()
        expected = fused.residual_blocks(blocks, x, kept)
        assert torch.equal(x, before), "somebody may need it"
        found = fused.residual_blocks(blocks, x, can_overwrite, can_overwrite=True)
        assert torch.equal(found, expected)
        assert (found.data_ptr() == x.data_ptr()) == (width == 16), "a shortcut makes a place of its own"


def a_vae(family: str) -> WanVAE:
    torch.manual_seed(5)
    width = (96 if family == "wan2.1" else 160) if GPU else 8
    return WanVAE(replace(PRESETS[family], base_dim=width, decoder_base_dim=width)).requires_grad_(False)


def there(vae: WanVAE, sizes: list[int], shape: tuple[int, int], shard: Shard | None = None) -> list[Tensor]:
    """A clip of three latents decoded in chunks of these sizes, one of nine frames encoded: float64 on the CPU."""
    generator = torch.Generator().manual_seed(6)
    config = vae.config
    scale, counts = config.spatial_factor, [config.num_frames(sizes[0]), *(4 * n for n in sizes[1:])]
    z = torch.randn(1, config.z_dim, 3, *shape, generator=generator)
    x = torch.rand(1, 3, 9, shape[0] * scale, shape[1] * scale, generator=generator) * 2 - 1
    if shard is not None:
        z, x = shard.part(z), shard.part(x, scale)
    args = () if shard is None else (shard,)
    frames = torch.cat(list(decode_chunks(vae, z.split(sizes, 2), *args)), 2)
    latents = torch.cat(list(encode_chunks(vae, x.split(counts, 2), *args)), 2)
    return [frames.double().cpu(), latents.double().cpu()]


@pytest.mark.parametrize("family", ["wan2.1", "wan2.2"])
def test_whole_networks(family: str) -> None:
    """Against float32 on the plain path: no further away than the plain path in the same precision."""
    vae = a_vae(family)
    launchers.elsewhere = False
    exact = there(vae, [3], (2, 3))
    vae = vae.to(DEVICE, DTYPE).channels_last()
    launchers.elsewhere = not GPU
    allowed = 0.02 if GPU else 5e-6
    for sizes in ([1, 1, 1], [2, 1], [1, 2], [3]) if GPU else ([2, 1],):
        for found, expected in zip(there(vae, sizes, (2, 3)), exact, strict=True):
            assert distance(found, expected) < allowed
            for index in range(expected.shape[2]):  # no frame and no border is worse than the rest
                assert distance(found[:, :, index], expected[:, :, index]) < 1.5 * allowed
            for edge in (0, -1):
                assert distance(found[..., edge, :], expected[..., edge, :]) < 1.5 * allowed


@pytest.mark.parametrize("temporal", [(True,), (True, False), (False, True)])
def test_where_frames_are_halved_first(temporal: tuple[bool, ...]) -> None:
    """A first chunk of several latents, through encoders that do not all begin with a picture's size."""
    torch.manual_seed(5)
    few = replace(
        PRESETS["wan2.1"], base_dim=8, decoder_base_dim=8, num_res_blocks=1,
        dim_mult=(1,) * len(temporal) + (2,), temporal_downsample=temporal,
    )  # fmt: skip
    vae = WanVAE(few).requires_grad_(False)
    x = torch.rand(1, 3, 9, 8, 12) * 2 - 1
    launchers.elsewhere = False
    (expected,) = encode_chunks(vae, [x])
    launchers.elsewhere = not GPU
    (found,) = encode_chunks(vae.to(DEVICE, DTYPE).channels_last(), [x])
    assert distance(found.cpu(), expected) < (0.02 if GPU else 5e-6)


def sharded(group: Group, shape: tuple[int, int]) -> tuple[int, list[Tensor]]:
    launchers.elsewhere = not GPU
    vae = a_vae("wan2.1").to(group.device, DTYPE).channels_last()
    shard = Shard.plan(*shape, group.size, group.rank, group.data, group.peer_memory)
    assert shard is not None
    return shard.dim, there(vae, [2, 1], shape, shard)


@pytest.mark.skipif(GPU and torch.cuda.device_count() < 2, reason="one GPU here")
@pytest.mark.parametrize("shape", [(3, 2), (1, 3)])
def test_neighbours_rows(shape: tuple[int, int]) -> None:
    parts = run_group(2, sharded, shape, timeout=300, device=DEVICE.type)
    vae = a_vae("wan2.1")
    launchers.elsewhere = False
    for index, expected in enumerate(there(vae, [1, 1, 1], shape)):
        whole = torch.cat([results[index] for _, results in parts], parts[0][0])
        assert distance(whole, expected) < (0.02 if GPU else 5e-6)


@pytest.mark.skipif(GPU, reason="it works here")
def test_where_triton_does_not_work_there_is_another_path(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launchers.elsewhere = False
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert not launchers._works(torch.device("cuda", 0))  # there is no driver, let alone a compiler
    assert "Triton does not work here" in caplog.text
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert not launchers._works(torch.device("cuda", 1))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 17, 31), (3, 40, 64)])
def test_pixels(shape: tuple[int, int, int]) -> None:
    frames = (torch.rand(1, 3, *shape, device=DEVICE) * 2.4 - 1.2).to(DTYPE)
    if not GPU:  # every half, to see which way they are rounded
        frames.flatten()[:256] = ((torch.arange(256) + 0.5) / 127.5 - 1)[: frames.numel()]
    found = to_uint8(frames)
    launchers.elsewhere = False
    assert found.dtype == torch.uint8 and torch.equal(found.cpu(), to_uint8(frames.cpu()))


def test_blank_frames() -> None:
    frames, _ = frames_of(random(4, 5, 7, 24))
    frames.data.fill_(3)
    fused.blank(frames, (4, 2))
    assert not frames.data[[2, 4]].any() and (frames.data[[0, 1, 3, 5]] == 3).all()
