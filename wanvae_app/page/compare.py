"""How two clips differ: the largest difference of their pixels and its place, and the PSNR.

Clips with alpha are compared as they are seen, over a checkerboard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wanvae_app.frame_log import FrameLog

BATCH = 8  # frames that are compared at a time, so that memory stays flat

Clip = FrameLog | np.ndarray  # uint8 RGB, [T, H, W, 3]


@dataclass(frozen=True)
class Difference:
    """Where two clips differ most, and how many of their pixels differ. The place is 0, 0, 0 if none does."""

    max_abs: int  # largest difference of a channel, 0 to 255
    frame: int
    row: int
    column: int
    num_different: int
    num_pixels: int  # in all compared frames


def difference(a: Clip, b: Clip) -> Difference:
    """Find the largest difference over the frames that both clips have.

    Raises ValueError if the clips differ in height or width, if one has no frames, or if its frames were deleted.
    """
    max_abs = frame = row = column = 0
    num_different = num_pixels = 0
    for start, batch_a, batch_b in _batches(a, b):
        steps = np.abs(batch_a.astype(np.int16) - batch_b).max(-1)  # [n, H, W]: of three channels the largest
        num_different += int(np.count_nonzero(steps))
        num_pixels += steps.size
        place = np.unravel_index(int(steps.argmax()), steps.shape)
        if steps[place] > max_abs:
            max_abs = int(steps[place])
            frame, row, column = start + int(place[0]), int(place[1]), int(place[2])
    return Difference(max_abs, frame, row, column, num_different, num_pixels)


def psnr(a: Clip, b: Clip) -> float:
    """Peak signal-to-noise ratio in dB over the frames that both clips have; infinite if they are equal.

    10 log10(255^2 / MSE), with the mean squared error taken over all frames, pixels and channels together. Raises
    ValueError as `difference` does.
    """
    sum_squares, num_values = 0, 0
    for _, batch_a, batch_b in _batches(a, b):
        steps = batch_a.astype(np.int32) - batch_b
        sum_squares += int((steps * steps).sum(dtype=np.int64))
        num_values += steps.size
    return math.inf if sum_squares == 0 else 10 * math.log10(255**2 * num_values / sum_squares)


def _batches(a: Clip, b: Clip) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the number of the first frame and the frames of both clips, uint8 [n, H, W, 3], n up to BATCH."""
    if _size(a) != _size(b):
        (h, w), (other_h, other_w) = _size(a), _size(b)
        raise ValueError(
            f"Clips of {w}x{h} and {other_w}x{other_h} cannot be compared; they must be of one size."
        )
    num_frames = min(len(a), len(b))
    if num_frames == 0:
        raise ValueError("There are no frames to compare yet.")
    for start in range(0, num_frames, BATCH):
        stop = min(start + BATCH, num_frames)
        yield start, _read(a, start, stop), _read(b, start, stop)


def _size(clip: Clip) -> tuple[int, int]:
    """Height and width."""
    return (clip.height, clip.width) if isinstance(clip, FrameLog) else (clip.shape[1], clip.shape[2])


def _read(clip: Clip, start: int, stop: int) -> np.ndarray:
    return clip.read_seen(start, stop) if isinstance(clip, FrameLog) else clip[start:stop]
