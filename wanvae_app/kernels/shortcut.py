"""Shortcut: what Wan 2.2 adds to the result of an upsampling level.

The level's input bypasses the level: its channels are repeated, then unfolded into pixels. The convolution that ends
the level does this while it adds, so the enlarged shortcut is never made. The plain equal is
`model.layers.add_duplicate_up`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Shortcut(NamedTuple):
    """The input of an upsampling level, for the convolution whose result [T, 2 H, 2 W, N] it is added to."""

    pixels: Tensor  # [T', H, W, M N], contiguous; M is `channels_per_output`
    time_factor: int  # frames that each of the T' frames becomes
    first_frame: int  # index of the result's first frame among these time_factor * T' frames

    def channels_per_output(self, n: int) -> int:
        """Return how many channels the shortcut has for each of the result's n."""
        return self.pixels.shape[3] // n

    def after(self, num_frames: int) -> Shortcut | None:
        """Return the shortcut of the frames behind the result's first `num_frames`.

        Returns None behind the last frame, so that its memory can be freed.
        """
        first_frame = self.first_frame + num_frames
        is_over = first_frame >= self.time_factor * len(self.pixels)
        return None if is_over else self._replace(first_frame=first_frame)

    def check(self, num_frames: int, height: int, width: int, n: int) -> None:
        """Assert that it has the frames and the shape for a result [num_frames, 2 height, 2 width, n]."""
        shape = self.pixels.shape
        assert self.pixels.is_contiguous() and shape[1:3] == (height, width) and shape[3] % n == 0, (
            shape,
            height,
            width,
            n,
        )
        assert self.first_frame + num_frames <= self.time_factor * len(self.pixels), (self[1:], num_frames)
