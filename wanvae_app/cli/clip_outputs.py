"""Results of `decode` and `encode`: they grow under another name, and get their place when they are whole."""

from __future__ import annotations

import contextlib
import queue
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.frame_log import FrameLog

MAX_WAITING = 2  # chunks of frames that wait for the file before the next one has to
POLL_SECONDS = 0.1


class FeedEnded(Exception):
    """The other side of a feed has failed."""


class FrameFeed:
    """Frames on their way from the VAE to a file: one thread puts them in, another one iterates. Few are held."""

    def __init__(self) -> None:
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(MAX_WAITING)
        self._failed = False

    def put(self, frames: np.ndarray | None) -> None:
        """Hand over frames [n, H, W, C], or None after the last ones; waits for room.

        Raises FeedEnded if the reader has failed.
        """
        while True:
            if self._failed:
                raise FeedEnded
            with contextlib.suppress(queue.Full):
                self._queue.put(frames, timeout=POLL_SECONDS)
                return

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the frames; waits for them. Raises FeedEnded if they will not come."""
        while True:
            try:
                frames = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if self._failed:
                    raise FeedEnded from None
                continue
            if frames is None:
                return
            yield frames

    def fail(self) -> None:
        """Say that this side has failed: the other one gets FeedEnded."""
        self._failed = True


class SequentialLog(FrameLog):
    """Frames that are read in their order, once, as they come; `num_frames` of them in the end."""

    def __init__(self, frames: Iterable[np.ndarray], num_frames: int) -> None:
        self._batches, self._num_frames = iter(frames), num_frames
        self._rest = next(self._batches)
        super().__init__(*self._rest.shape[1:3])

    def __len__(self) -> int:
        return self._num_frames

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the next frames."""
        while len(self._rest) < stop - start:
            self._rest = np.concatenate([self._rest, next(self._batches)])
        frames, self._rest = self._rest[: stop - start], self._rest[stop - start :]
        return frames


def write_as_mp4(frames: Iterable[np.ndarray], num_frames: int, path: Path, rate: float) -> None:
    """Write frames, uint8 [n, H, W, 3], as they come. Raises as `write_mp4` does."""
    write_mp4(SequentialLog(frames, num_frames), path, rate)


# Take frames, their number, a path and frames per second; by the names in CLIP_COMMANDS["decode"].formats.
WRITERS: dict[str, Callable[[Iterable[np.ndarray], int, Path, float], None]] = {"mp4": write_as_mp4}


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
