"""Results of `decode` and `encode`: they grow under another name, and get their place when they are whole."""

from __future__ import annotations

import contextlib
import queue
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.frame_log import FrameLog

MAX_WAITING = 2  # chunks of frames that wait for the file before the next one has to
POLL_SECONDS = 0.1

WriteFrames = Callable[[FrameLog, Path, float], None]
# By the names in clip_options.CLIP_COMMANDS["decode"].formats.
WRITERS: dict[str, WriteFrames] = {"mp4": write_mp4}


class FeedEnded(Exception):
    """The other side of a feed has failed."""


class FrameFeed(FrameLog):
    """Frames on their way from the VAE to a file: few are held at a time.

    One thread appends, another one reads them in their order, once. `len` is the number of frames in the end.
    """

    def __init__(self, num_frames: int, height: int, width: int) -> None:
        super().__init__(height, width)
        self._num_frames = num_frames
        self._queue: queue.Queue[np.ndarray] = queue.Queue(MAX_WAITING)
        self._rest = np.empty((0, height, width, 3), np.uint8)
        self._position = 0
        self._ended = False

    def __len__(self) -> int:
        return self._num_frames

    def append(self, frames: np.ndarray) -> None:
        """Hand over frames [n, H, W, 3]; waits for room. Raises FeedEnded if the reader has failed."""
        while True:
            if self._ended:
                raise FeedEnded
            with contextlib.suppress(queue.Full):
                self._queue.put(frames, timeout=POLL_SECONDS)
                return

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the next frames; waits for them. Raises FeedEnded if they will not come."""
        assert start == self._position, "frames are read in their order, once"
        parts, missing = [self._rest[: stop - start]], stop - start - len(self._rest)
        self._rest = self._rest[stop - start :]
        while missing > 0:
            part = self._take()
            parts.append(part[:missing])
            self._rest = part[missing:]
            missing -= len(part)
        self._position = stop
        return np.concatenate(parts)

    def end(self) -> None:
        """Say that this side has failed: the other one gets FeedEnded."""
        self._ended = True

    def _take(self) -> np.ndarray:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=POLL_SECONDS)
            if self._ended:
                raise FeedEnded


@contextlib.contextmanager
def whole_or_nothing(result: Path, folder: Path) -> Iterator[Path]:
    """Give the path, in `folder`, under which a file is written; it becomes `result` if nothing is raised.

    `folder` is made, on the same file system, and deleted. Raises OSError if the file cannot get its place.
    """
    growing = folder / result.name  # sentences about it have its final name
    folder.mkdir()
    try:
        yield growing
        result.parent.mkdir(parents=True, exist_ok=True)
        growing.replace(result)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
