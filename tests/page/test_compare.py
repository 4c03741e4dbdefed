"""Differences are found where they are, in any batch of frames, in memory or in a log."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from wanvae_app.frame_log import FrameLog
from wanvae_app.page.compare import BATCH, Difference, difference, psnr


def clip(num_frames: int = 2 * BATCH + 3, height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(2).integers(1, 255, (num_frames, height, width, 3), np.uint8)


def log_of(frames: np.ndarray, folder: Path) -> FrameLog:
    log = FrameLog(*frames.shape[1:3], folder)
    log.append(frames)
    return log


def test_equal_clips() -> None:
    a = clip()
    assert difference(a, a.copy()) == Difference(0, 0, 0, 0, 0, a[..., 0].size)
    assert psnr(a, a.copy()) == math.inf


@pytest.mark.parametrize("frame", [0, BATCH - 1, BATCH, 2 * BATCH + 2])
def test_the_largest_difference_is_found(tmp_path: Path, frame: int) -> None:
    a, b = clip(), clip()
    b[0, 0, 0, 0] ^= 1  # a smaller difference
    b[frame, 3, 4], a[frame, 3, 4, 1] = (0, 255, 7), 0  # uint8 must not wrap around
    expected = Difference(255, frame, 3, 4, 2, a[..., 0].size)
    assert difference(a, b) == difference(b, a) == expected
    assert (
        difference(log_of(a, tmp_path), log_of(b, tmp_path)) == difference(log_of(a, tmp_path), b) == expected
    )


def test_psnr_is_that_of_the_formula(tmp_path: Path) -> None:
    a = clip()
    b = np.clip(a.astype(int) + np.random.default_rng(3).integers(-9, 10, a.shape), 0, 255).astype(np.uint8)
    expected = 10 * math.log10(255**2 / np.mean((a.astype(float) - b) ** 2))
    assert psnr(a, b) == pytest.approx(expected, abs=1e-9)
    assert psnr(log_of(a, tmp_path), b) == pytest.approx(expected, abs=1e-9)
    black, white = np.zeros((9, 64, 64, 3), np.uint8), np.full((9, 64, 64, 3), 255, np.uint8)
    assert psnr(black, white) == 0


def test_only_frames_that_both_have_are_compared() -> None:
    a = clip()
    assert difference(a, a[:3]).num_pixels == 3 * 5 * 7
    assert psnr(a[:3], a) == math.inf


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="Clips of 7x5 and 6x5 cannot be compared"):
        difference(clip(), clip(width=6))
    with pytest.raises(ValueError, match="no frames to compare"):
        psnr(clip(), clip(0))
