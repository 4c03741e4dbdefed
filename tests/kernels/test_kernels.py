"""Every Triton kernel against its plain equal: on a GPU as it is, elsewhere in Triton's interpreter.

python -m pytest tests/kernels/test_kernels.py
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from torch import Tensor

from wanvae_app.kernels import tiles
from wanvae_app.kernels.packed_weights import fold_upsampling
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import PixelNorm, add_duplicate_up
from wanvae_app.model.pixels import to_uint8

pytest.importorskip("triton")  # none for this platform
from support.fast_path import (
    DEVICE,
    DTYPE,
    GPU,
    NOT_HERE,
    TOLERANCE,
    TOO_OLD,
    frames_of,
    random,
)

from wanvae_app.kernels import attention, launchers

pytestmark = pytest.mark.skipif(TOO_OLD, reason=NOT_HERE)
WIDE = [(96, 96), (192, 192), (192, 384), (384, 384), (160, 320), (256, 256), (640, 640), (1024, 1024)]


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
    assert distance(launchers.conv(matrix, bias, taps, frames, slots), expected) < TOLERANCE
    found = launchers.conv(matrix.chunk(3, 1)[2], bias, (1, 3, 3), frames, slots[2:])
    assert distance(found, plain_conv(x[2:], weight[:, :, 2:], bias, (0, 1, 1))) < TOLERANCE
    found = launchers.conv(matrix, bias, taps, frames, slots, residual=residual)
    assert distance(found, expected + residual.double()) < TOLERANCE
    launchers.conv(matrix, bias, taps, frames, slots, residual=residual, in_place=True)
    assert torch.equal(residual, found)
    if tiles.fits_one_tile(n) and n % 8 == 0:
        into = PaddedFramePool(height, width, n, DTYPE, DEVICE)
        targets = into.take(num_frames + 2)[2:]
        into.data[1:, 1:-1, 1:-1] = float("nan")
        launchers.conv(matrix, bias, taps, frames, slots, gamma=gamma, into=(into, targets))
        padded = F.pad(normed(expected, gamma), (0, 0, 1, 1, 1, 1))
        assert distance(into.data[list(targets)], padded) < TOLERANCE
        assert into.data[1].isnan().any() and not into.data[0].any()  # nobody wrote elsewhere


@pytest.mark.parametrize("frames_at_once", [1, 2, 4])
@pytest.mark.parametrize("num_frames", [1, 2, 4, 6])
def test_frames_at_once(frames_at_once: int, num_frames: int) -> None:
    x, weight, bias = random(num_frames + 2, 5, 6, 16), random(48, 16, 3, 3, 3) / 20, random(48)
    frames, slots = frames_of(x)
    tile = tiles.Tile(frames_at_once, 64, 32, 16, 16, 4, 2)
    found = launchers.conv(
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


@pytest.mark.parametrize("shares", [None, 2, 3])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 130), (129, 129), (300, 65), (9, 2050)])
def test_attention(queries: int, keys: int, shares: int | None) -> None:
    q, kv = random(2, queries, 384), random(2, keys, 768)
    k, v = kv.chunk(2, 2)
    expected = F.scaled_dot_product_attention(*(x.double()[:, None] for x in (q, k, v)))[:, 0]
    assert distance(attention.attend(q, k, v, shares), expected) < TOLERANCE


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
        launchers.sum_head_products(some, bias, due, out)
    assert distance(found, expected) < TOLERANCE


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
    matrix = fold_upsampling(weight)
    for sizes in ([count], [1] * count, [2] * (count // 2) + [1] * (count % 2)):
        shortcut, pieces, done = launchers.Shortcut(skip, time, late), [], 0
        for size in sizes:
            part = slots[done : done + size]
            pieces.append(launchers.conv(matrix, bias, (1, 2, 2), frames, part, up=2, shortcut=shortcut))
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
    found = launchers.conv(zeros, zeros[:24, 0], (1, 2, 2), frames, slots, up=2, shortcut=shortcut)
    state = ClipState()
    state.first = False
    expected = torch.zeros(1, 24, 2 * time, 6, 10, dtype=dtype, device=DEVICE)
    add_duplicate_up(expected, skip.movedim(-1, 0)[None], time, 2, state)
    assert torch.equal(found, expected[0].movedim(0, -1))


@pytest.mark.skipif(GPU, reason="it works here")
def test_where_triton_does_not_work_there_is_another_path(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert "gcc" in launchers.unsupported(torch.device("cuda", 0))  # there is no driver, let alone a compiler
    assert "Triton does not work here" in caplog.text
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert "8.6" in launchers.unsupported(torch.device("cuda", 1))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 17, 31), (3, 40, 64)])
def test_pixels(shape: tuple[int, int, int]) -> None:
    frames = (torch.rand(1, 3, *shape, device=DEVICE) * 2.4 - 1.2).to(DTYPE)
    if not GPU:  # every half, to see which way they are rounded
        frames.flatten()[:256] = ((torch.arange(256) + 0.5) / 127.5 - 1)[: frames.numel()]
    found = launchers.to_uint8(frames[0].movedim(0, -1).contiguous())
    assert found.dtype == torch.uint8 and torch.equal(found.cpu(), to_uint8(frames.cpu()))


def test_blank_frames() -> None:
    frames, _ = frames_of(random(4, 5, 7, 24))
    frames.data.fill_(3)
    launchers.blank(frames, (4, 2))
    assert not frames.data[[2, 4]].any() and (frames.data[[0, 1, 3, 5]] == 3).all()
