"""The other Triton kernels against their plain equals: on a GPU as they are, elsewhere in Triton's interpreter.

python -m pytest tests/kernels/test_kernels.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from support.padded import frames_of, frames_to_write, only_wrote
from support.plain import silu_norm

from wanvae_app.model.pixels import to_uint8

pytest.importorskip("triton")  # none for this platform
from support.fast_path import DEVICE, DTYPE, GPU, NO_DESCRIPTORS, TOLERANCE, UNSUPPORTED, random

from wanvae_app.kernels import attention, pixels, triton_support
from wanvae_app.kernels.head import sum_head_products
from wanvae_app.kernels.norm import activate
from wanvae_app.kernels.zero_frames import zero_frames

pytestmark = pytest.mark.skipif(bool(UNSUPPORTED), reason=UNSUPPORTED)


@pytest.mark.parametrize("c", [8, 24, 96, 160, 384, 1024])
def test_activation(c: int) -> None:
    x, gamma = random(2, 3, 5, c), random(c)
    x[0, 0, 0] = 0  # zeros stay zeros
    for with_norm, spare in ((True, 0), (False, 0), (True, 8), (False, 5)):
        into, slots = frames_to_write(x, c + spare, DTYPE)
        activate(x, gamma if with_norm else None, into, slots)
        expected = silu_norm(x, gamma) if with_norm else x
        assert distance(into.data[list(slots)], F.pad(expected, (0, spare, 1, 1, 1, 1))) < TOLERANCE
        assert only_wrote(into, slots)


@pytest.mark.skipif(bool(NO_DESCRIPTORS), reason=NO_DESCRIPTORS)
@pytest.mark.parametrize("num_shares", [None, 2, 3])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 130), (129, 129), (300, 65), (9, 2050)])
def test_attention(queries: int, keys: int, num_shares: int | None) -> None:
    q, kv = random(2, queries, 384), random(2, keys, 768)
    k, v = kv.chunk(2, 2)
    expected = F.scaled_dot_product_attention(*(x.double()[:, None] for x in (q, k, v)))[:, 0]
    found = attention.attend(q, k, v, num_shares)
    assert distance(found, expected) < TOLERANCE


@pytest.mark.parametrize(("n", "shape"), [(3, (1, 1, 1)), (3, (4, 5, 33)), (12, (2, 9, 7)), (1, (3, 40, 3))])
def test_sum_of_shifted_products(n: int, shape: tuple[int, int, int]) -> None:
    num_frames, height, width = shape
    num_pixels = (height + 2) * (width + 2)
    products = random(num_frames, 27 * n, num_pixels + 5)
    bias = random(n)
    taps = F.pad(products[:, :, :num_pixels].double(), (0, 0) * 2 + (2, 0))
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
        sum_head_products(some, bias, due, out)
    assert distance(found, expected) < TOLERANCE


@pytest.mark.skipif(GPU, reason="it works here")
def test_where_triton_does_not_work_there_is_another_path(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = (torch.device("cuda", index) for index in range(90, 93))  # none of them is there
    why_unsupported = triton_support.why_unsupported
    monkeypatch.setattr(triton_support, "missing_tools", lambda: ["gcc", "Python's headers"])
    assert why_unsupported(next(gpus)) == "Triton needs gcc and Python's headers"
    assert "Triton does not work here" in caplog.text
    monkeypatch.setattr(triton_support, "missing_tools", lambda: ["gcc"])
    assert why_unsupported(next(gpus)) == "Triton needs gcc"
    monkeypatch.setattr(triton_support, "missing_tools", lambda: [])
    assert why_unsupported(next(gpus)).startswith("Triton does not work here (")


def test_what_triton_lacks_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(triton_support.sysconfig, "get_path", lambda name: str(tmp_path))
    assert triton_support.missing_tools() == ["gcc", "Python's headers"]
    compiler = tmp_path / "gcc"
    compiler.touch(0o700)
    assert triton_support.missing_tools() == ["Python's headers"]
    (tmp_path / "Python.h").touch()
    assert triton_support.missing_tools() == []


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 17, 31), (3, 40, 64)])
def test_pixels(shape: tuple[int, int, int]) -> None:
    frames = (torch.rand(1, 3, *shape, device=DEVICE) * 2.4 - 1.2).to(DTYPE)
    if not GPU:  # every half, to see which way they are rounded
        frames.flatten()[:256] = ((torch.arange(256) + 0.5) / 127.5 - 1)[: frames.numel()]
    found = pixels.to_uint8(frames[0].movedim(0, -1).contiguous())
    assert found.dtype == torch.uint8 and torch.equal(found.cpu(), to_uint8(frames.cpu()))


def test_frames_of_zeros() -> None:
    frames, _ = frames_of(random(4, 5, 7, 24))
    frames.data.fill_(3)
    zero_frames(frames, (4, 2))
    assert not frames.data[[2, 4]].any() and (frames.data[[0, 1, 3, 5]] == 3).all()
