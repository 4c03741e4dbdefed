"""Frames compared: numbers, places, borders of slabs, and the picture in colours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wanvae_app.page.borders import Borders, border_mask
from wanvae_app.page.frame_compare import (
    COLOURS,
    FrameDifference,
    colour_table,
    compare_frames,
    difference_picture,
)

HEIGHT, WIDTH = 32, 24
MASK = border_mask(HEIGHT, WIDTH, [Borders(False, (16,), 8)])


def frame() -> np.ndarray:
    return np.random.default_rng(4).integers(1, 255, (HEIGHT, WIDTH, 3), np.uint8)


def test_one_step_of_one_channel_is_found() -> None:
    a, b = frame(), frame()
    b[20, 5, 2] += 1
    psnr = 10 * math.log10(255**2 * a.size)
    assert compare_frames(a, b, None) == FrameDifference(psnr, None, 1, 20, 5, 1)
    assert compare_frames(a, b, MASK) == FrameDifference(psnr, 1, 0, 20, 5, 1)
    b[20, 5, 2] -= 1
    assert compare_frames(a, b, MASK) == FrameDifference(math.inf, 0, 0, 0, 0, 0)
    b[8, 0], b[7, 3], a[7, 3] = a[8, 0] ^ 1, 255, 0  # uint8 must not wrap around
    found = compare_frames(a, b, MASK)
    assert (found.on_borders, found.elsewhere, found.max_abs, found.row, found.column) == (1, 255, 255, 7, 3)


def test_psnr_is_that_of_the_formula() -> None:
    a, b = frame(), frame()[::-1]
    expected = 10 * math.log10(255**2 / np.mean((a.astype(float) - b) ** 2))
    assert compare_frames(a, b, None).psnr == pytest.approx(expected, abs=1e-9)


def test_borders_are_where_slabs_meet() -> None:
    rows = border_mask(HEIGHT, WIDTH, [Borders(False, (8, 24), 2)])
    assert rows is not None and rows.sum() == 8 * WIDTH and rows[[6, 9, 22, 25]].all()
    both = border_mask(HEIGHT, WIDTH, [Borders(False, (8,), 1), Borders(True, (16,), 8)])
    assert both is not None and both.sum() == 2 * WIDTH + 30 * 16 and both[0, 8:].all() and not both[0, 7]
    assert border_mask(HEIGHT, WIDTH, [Borders(False, (), 0)]) is None


@pytest.mark.parametrize("gain", [1, 8, 64])
def test_a_difference_gets_its_colour(gain: int) -> None:
    a, b = frame(), frame()
    b[3, 4, 1] -= 1
    for picture in (difference_picture(a, b, gain, "worst"), difference_picture(b, a, gain, "worst")):
        assert tuple(picture[3, 4]) == tuple(colour_table()[gain])
        picture[3, 4] = 0
        assert not picture.any()
    luma = difference_picture(a, b, gain, "luma")[3, 4]
    assert tuple(luma) == tuple(colour_table()[round(0.7152 * gain)])


def test_colours_reach_from_the_first_to_the_last() -> None:
    table = colour_table()
    assert ["#{:02x}{:02x}{:02x}".format(*table[i]) for i in range(0, 256, 51)] == list(COLOURS)
    black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert tuple(difference_picture(black, white, 64, "luma")[0, 0]) == tuple(table[255])
    levels = table @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(levels) > 0).all()  # told apart in grey
