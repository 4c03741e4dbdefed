"""FrameLog: the frames of one clip, appended by one thread and read by any number of others."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from wanvae_app.alpha import over_checkerboard

MAX_KEPT = 2**30  # bytes of one clip's frames in memory, where they cannot be written to a file


class FrameLog:
    """Append-only log of one clip's frames, uint8 [H, W, C]. C is 3 for RGB, or 4 with alpha.

    The frames lie in a file of `folder`. Memory stays flat for a long clip, and the file is unlinked as soon as
    it is open: nothing of it remains when the process dies. Without a folder, or once the file cannot be written,
    new frames are kept in memory, MAX_KEPT bytes at most. `warning` says why the file cannot be written.

    The log of a clip whose size is not known yet has height and width 0. `open` sets the size, and the channels, before
    the first frame.

    Thread-safe for one writer and many readers.
    """

    def __init__(
        self, height: int = 0, width: int = 0, folder: Path | None = None, channels: int = 3
    ) -> None:
        self.height = 0
        self.width = 0
        self.channels = channels
        self.times: list[float] = []  # time.monotonic() at which each frame was appended
        self.finished = False  # no frame will follow
        self.closed = False  # the frames are deleted
        self.warning = ""
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._fd: int | None = None
        self._num_filed = 0  # frames in the file; all later ones are in _kept
        self._kept: list[np.ndarray] = []
        if height or width:
            self.open(height, width, folder, channels)

    def open(self, height: int, width: int, folder: Path | None, channels: int = 3) -> None:
        """Set the size, and the folder of the file, or None for frames in memory. Call it before the first frame."""
        assert height > 0 and width > 0 and not self.times and not self.finished, (height, width)
        assert self._fd is None, "the log is open"
        self.height = height
        self.width = width
        self.channels = channels
        if folder is not None:
            try:
                with tempfile.TemporaryFile(dir=folder, prefix="frames-") as file:
                    self._fd = os.dup(file.fileno())
            except OSError as error:
                self._fall_back(error)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.height * self.width * self.channels

    @property
    def _frame_shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def num_bytes(self) -> int:
        """Bytes of the frames that the log holds, in its file and in memory; 0 once it is closed."""
        return 0 if self.closed else len(self.times) * self.frame_bytes

    def __len__(self) -> int:
        return len(self.times)

    def append(self, frames: np.ndarray) -> None:
        """Add a copy of `frames`, uint8 [n, H, W, C]. Only one thread may append, and not after `finish`.

        Raises OSError, with a sentence, if they fit neither into the file nor into MAX_KEPT bytes of memory.
        """
        assert frames.dtype == np.uint8 and frames.shape[1:] == self._frame_shape, frames.shape
        assert not self.finished, "the log is finished"
        num_filed = self._write(np.ascontiguousarray(frames))
        if (len(self._kept) + len(frames) - num_filed) * self.frame_bytes > MAX_KEPT:
            raise OSError(
                f"the frames cannot be written to a file, and {MAX_KEPT / 1e9:.1f} GB of memory hold no more of them"
            )
        now = time.monotonic()
        with self._lock:
            if self.closed:  # by another thread, while the frames were written
                return
            self._num_filed += num_filed
            self._kept.extend(frame.copy() for frame in frames[num_filed:])
            self.times.extend([now] * len(frames))
        self._notify()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a copy of frames start to stop (exclusive), uint8 [stop - start, H, W, C].

        Raises IndexError for frames that do not exist yet, ValueError after `close`.
        """
        with self._lock:
            if self.closed:
                raise ValueError("the frames of this run have been deleted; run it again")
            if not 0 <= start <= stop <= len(self.times):
                raise IndexError(f"frames {start} to {stop} of a log of {len(self.times)}")
            num_filed = self._num_filed
            kept = self._kept[max(start - num_filed, 0) : max(stop - num_filed, 0)]
            # Read from a duplicate: it outlives a `close` by another thread, and the lock is free meanwhile.
            fd = os.dup(self._fd) if self._fd is not None and start < num_filed else None
        frames = np.empty((stop - start, *self._frame_shape), np.uint8)
        num_read = 0
        if fd is not None:
            num_read = min(stop, num_filed) - start
            try:
                _read_fully(fd, frames[:num_read].reshape(-1).data, start * self.frame_bytes)
            finally:
                os.close(fd)
        for i, frame in enumerate(kept):
            frames[num_read + i] = frame
        return frames

    def read_seen(self, start: int, stop: int) -> np.ndarray:
        """Return frames as `read` does, in RGB: those with alpha over a checkerboard, as a page shows them."""
        return over_checkerboard(self.read(start, stop))

    @contextmanager
    def listener(self, notify: Callable[[], None]) -> Iterator[None]:
        """Call `notify` after every `append`, `finish` and `close` while the context is open.

        The thread that changes the log makes the call, so `notify` must return at once and must not raise. A last
        call may come just after the context was left.
        """
        with self._lock:
            self._listeners.append(notify)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(notify)

    def finish(self) -> None:
        """Say that no frame will follow."""
        self.finished = True
        self._notify()

    def close(self) -> None:
        """Free the frames. Later reads raise ValueError; `len` and `times` stay."""
        with self._lock:
            self.finished = self.closed = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            self._kept.clear()
        self._notify()

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            self.close()

    def _notify(self) -> None:
        """Call the listeners without the lock: they may read the log."""
        with self._lock:
            listeners = list(self._listeners)
        for notify in listeners:
            notify()

    def _write(self, frames: np.ndarray) -> int:
        """Write frames to the file; return how many were written completely."""
        with self._lock:
            if self._fd is None or self._kept or self.warning:
                return 0
            fd = os.dup(self._fd)
        offset = self._num_filed * self.frame_bytes
        data = frames.reshape(-1).data
        num_written = 0
        try:
            while num_written < len(data):
                num_written += os.pwrite(fd, data[num_written:], offset + num_written)
        except OSError as error:
            self._fall_back(error)
        finally:
            os.close(fd)
        return num_written // self.frame_bytes

    def _fall_back(self, error: OSError) -> None:
        self.warning = (
            f"Frames are kept in memory, because their file cannot be written: {error.strerror or error}"
        )


def _read_fully(fd: int, buffer: memoryview, offset: int) -> None:
    num_read = 0
    while num_read < len(buffer):
        if hasattr(os, "preadv"):
            num_bytes = os.preadv(fd, [buffer[num_read:]], offset + num_read)
        else:  # macOS before 11; one copy more
            data = os.pread(fd, len(buffer) - num_read, offset + num_read)
            num_bytes = len(data)
            buffer[num_read : num_read + num_bytes] = data
        assert num_bytes > 0, "the file of a frame log is shorter than its frames"
        num_read += num_bytes
