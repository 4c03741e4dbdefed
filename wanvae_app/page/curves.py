"""Curves: how two clips differ, frame by frame, computed once for each pair of frames."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

import numpy as np
from starlette.exceptions import HTTPException

from wanvae_app.page.borders import border_mask, borders_of
from wanvae_app.page.clips import Clip
from wanvae_app.page.frame_compare import FrameDifference, compare_frames

MAX_CURVES = 64  # pairs of clips whose differences are kept
STEP_SECONDS = 0.2  # of computing for one question


class Curve:
    """The differences of two clips of one size, from their first frame on. Thread-safe."""

    def __init__(self, a: Clip, b: Clip) -> None:
        self.a = a
        self.b = b
        self.mask = pair_mask(a, b)
        self.differences: list[FrameDifference] = []
        self._lock = threading.Lock()

    @property
    def num_frames(self) -> int:
        """Number of frames that both clips have."""
        return min(len(self.a.frames), len(self.b.frames))

    @property
    def is_complete(self) -> bool:
        """Whether no difference will be added."""
        ended = (
            self.a.frames.finished and self.b.frames.finished
        )  # read first: the last frames may come in between
        return ended and len(self.differences) == self.num_frames

    def extend(self, seconds: float) -> None:
        """Compare frames that were not compared yet, one at least, until `seconds` have passed.

        Raises HTTPException 410 if frames were deleted.
        """
        with self._lock:
            end = time.monotonic() + seconds
            while (frame := len(self.differences)) < self.num_frames:
                found = compare_frames(self.a.read(frame), self.b.read(frame), self.mask)
                self.differences.append(found)
                if time.monotonic() >= end:
                    break


class Curves:
    """The newest MAX_CURVES curves, by the names of their clips. Thread-safe."""

    def __init__(self) -> None:
        self._curves: OrderedDict[tuple[str, str], Curve] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, a: Clip, b: Clip) -> Curve:
        """Return the curve of two clips. Raises HTTPException 400 if they differ in size."""
        key = a.name, b.name
        with self._lock:
            curve = self._curves.get(key)
            if curve is None or (curve.a.frames, curve.b.frames) != (a.frames, b.frames):
                curve = self._curves[key] = Curve(a, b)
            self._curves.move_to_end(key)
            while len(self._curves) > MAX_CURVES:
                self._curves.popitem(last=False)
            return curve


def pair_mask(a: Clip, b: Clip) -> np.ndarray | None:
    """Return which pixels [H, W] lie on borders of either run's slabs; None: on none.

    Raises HTTPException 400 if the clips differ in size.
    """
    height, width = a.frames.height, a.frames.width
    if (height, width) != (b.frames.height, b.frames.width):
        sizes = f"{width}x{height} and {b.frames.width}x{b.frames.height}"
        raise HTTPException(400, f"Clips of {sizes} cannot be compared; they must be of one size.")
    runs = {clip.run.id: clip.run for clip in (a, b) if clip.frames is clip.run.frames}
    return border_mask(height, width, map(borders_of, runs.values()))
