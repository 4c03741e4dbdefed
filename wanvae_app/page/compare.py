"""What differs between two clips, pixel by pixel, and where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wanvae_app.frame_log import FrameLog

PIECE = 8  # frames at a time, so that memory stays flat

Clip = FrameLog | np.ndarray  # uint8, [T, H, W, 3]


@dataclass(frozen=True)
class Difference:
    """Where two clips differ most, in steps of 8-bit pixels (0: not at all), and how many pixels differ."""

    max_abs: int
    frame: int
    row: int
    column: int
    num_different: int
    num_pixels: int


def difference(a: Clip, b: Clip) -> Difference:
    """Compare two clips of the same size, over the frames that both have. ValueError if sizes differ."""
    worst = (0, 0, 0, 0)
    num_different = num_pixels = 0
    for start, x, y in _pieces(a, b):
        off = np.abs(x.astype(np.int16) - y).max(-1)  # [n, H, W], the worst of a pixel's three channels
        num_different += int(np.count_nonzero(off))
        num_pixels += off.size
        frame, row, column = np.unravel_index(int(off.argmax()), off.shape)
        if off[frame, row, column] > worst[0]:
            worst = (int(off[frame, row, column]), start + int(frame), int(row), int(column))
    return Difference(*worst, num_different, num_pixels)


def psnr(a: Clip, b: Clip) -> float:
    """Peak signal-to-noise ratio in dB over all frames that both clips have, peak 255; infinite if equal."""
    squares, num_values = 0, 0
    for _, x, y in _pieces(a, b):
        off = x.astype(np.int32) - y
        squares += int((off * off).sum(dtype=np.int64))
        num_values += off.size
    return math.inf if squares == 0 else 10 * math.log10(255**2 * num_values / squares)


def _pieces(a: Clip, b: Clip) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Start, and frames of both, piece by piece."""
    if _size(a) != _size(b):
        (h, w), (other_h, other_w) = _size(a), _size(b)
        raise ValueError(
            f"Clips of {w}x{h} and {other_w}x{other_h} cannot be compared; they must be of one size."
        )
    num_frames = min(len(a), len(b))
    if num_frames == 0:
        raise ValueError("There are no frames to compare yet.")
    for start in range(0, num_frames, PIECE):
        stop = min(start + PIECE, num_frames)
        yield start, _read(a, start, stop), _read(b, start, stop)


def _size(clip: Clip) -> tuple[int, int]:
    return (clip.height, clip.width) if isinstance(clip, FrameLog) else (clip.shape[1], clip.shape[2])


def _read(clip: Clip, start: int, stop: int) -> np.ndarray:
    return clip.read(start, stop) if isinstance(clip, FrameLog) else clip[start:stop]
