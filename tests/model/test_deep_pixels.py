"""Pixels of 16 bits are the nearest to what the decoder made, in every dtype and on every device."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from wanvae_app.jobs.deep_frames import as_bytes
from wanvae_app.model.pixels import to_uint16

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_value_is_rounded_to_nearest(dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(1, 3, 2, 4, 5, generator=generator, dtype=torch.float64) * 2 - 1
    frames[0, 0, 0, 0] = torch.tensor([-1.0, 1.0, 0.0, -1e-9, 1e-9])
    given = frames.to(dtype)
    laid_out = given.to(device).contiguous(memory_format=torch.channels_last_3d)  # as decoders make frames
    pixels = to_uint16(laid_out).cpu()
    assert pixels.dtype == torch.uint16 and pixels.shape == (2, 4, 5, 3)
    assert torch.equal(laid_out.cpu(), given), "it overwrote the frames"
    for x, pixel in zip(
        given[0].permute(1, 2, 3, 0).flatten().tolist(), pixels.flatten().tolist(), strict=True
    ):
        assert abs((Fraction(x) + 1) / 2 * 65535 - pixel) <= Fraction(1, 2)


def test_bytes_are_two_for_each_value() -> None:
    pixels = torch.arange(24, dtype=torch.int32).mul(257 * 10).to(torch.uint16).view(1, 2, 4, 3)
    found = as_bytes(pixels)
    assert found.shape == (1, 2, 8, 3) and found.dtype == torch.uint8
    assert torch.equal(found.reshape(1, 2, 24).view(torch.uint16).view(1, 2, 4, 3).int(), pixels.int())
    left, right = pixels[:, :, :2], pixels[:, :, 2:]
    columns = torch.cat([as_bytes(left.contiguous()), as_bytes(right.contiguous())], 2)
    assert torch.equal(columns, found), "slabs of columns cannot be joined"
