"""Two frames compared: numbers, and a picture of their difference in colours."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

CHANNELS = (
    "worst",
    "luma",
)  # what of a pixel's difference is shown: its largest of three, or that of its luma
MAX_GAIN = 64  # that differences can be multiplied by, before they become colours
LUMA = (0.2126, 0.7152, 0.0722)  # weights of red, green and blue: ITU-R BT.709
# Colours from no difference to 255 or more steps, after the gain: dark to light, so that they are told apart in grey.
COLOURS = ("#000000", "#420a68", "#932667", "#dd513a", "#fca50a", "#fcffa4")


class FrameDifference(NamedTuple):
    """How two frames differ. Differences are in steps of 255, of a pixel's worst channel."""

    psnr: float  # dB; infinite if the frames are equal
    on_borders: int | None  # largest difference on the borders of slabs; None if there are no borders
    elsewhere: int  # largest difference of all other pixels
    row: int  # of the largest difference, 0 if there is none
    column: int
    num_different: int  # pixels

    @property
    def max_abs(self) -> int:
        """Largest difference of all pixels."""
        return max(self.on_borders or 0, self.elsewhere)


def compare_frames(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None) -> FrameDifference:
    """Compare two frames, uint8 [H, W, 3]. `mask` [H, W] says which pixels lie on borders, None: there are none.

    PSNR is 10 log10(255^2 / MSE), with the mean squared error over all pixels and channels.
    """
    steps = absolute_steps(a, b)
    worst = steps.max(-1)
    place = int(worst.argmax())
    row, column = divmod(place, worst.shape[1])
    on_borders = None if mask is None else int(worst[mask].max(initial=0))
    elsewhere = int(worst.max() if mask is None else worst[~mask].max(initial=0))
    if not worst[row, column]:
        return FrameDifference(math.inf, on_borders, elsewhere, 0, 0, 0)
    counts = np.bincount(steps.reshape(-1), minlength=256)
    sum_squares = int(counts @ np.arange(256) ** 2)
    psnr = 10 * math.log10(255**2 * steps.size / sum_squares)
    return FrameDifference(psnr, on_borders, elsewhere, row, column, int(np.count_nonzero(worst)))


def difference_picture(a: np.ndarray, b: np.ndarray, gain: int, channel: str) -> np.ndarray:
    """Return the difference of two frames, uint8 [H, W, 3], as a picture in COLOURS.

    A difference of k steps, of the `channel` in CHANNELS, gets the colour of gain * k out of 255; larger ones get the
    last colour. `gain` is 1 to MAX_GAIN.
    """
    assert channel in CHANNELS and 1 <= gain <= MAX_GAIN, (channel, gain)
    if channel == "worst":
        level = absolute_steps(a, b).max(-1).astype(np.uint16) * np.uint16(gain)
    else:
        weights = np.array(LUMA, np.float32)
        level = np.rint(np.abs(a @ weights - b @ weights) * gain).astype(np.uint16)
    picture: np.ndarray = colour_table()[np.minimum(level, 255)]
    return picture


def colour_table() -> np.ndarray:
    """Return the colours of the levels 0 to 255, uint8 [256, 3]: COLOURS, evenly spaced, and linear between them."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS])
    places = np.linspace(0, 255, len(stops))
    channels = [np.interp(np.arange(256), places, stops[:, channel]) for channel in range(3)]
    table: np.ndarray = np.rint(np.stack(channels, -1)).astype(np.uint8)
    return table


def absolute_steps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a - b| of two uint8 arrays as uint8."""
    steps: np.ndarray = np.maximum(a, b) - np.minimum(a, b)
    return steps
