"""Frames, piped into a child process that makes a file of them: ffmpeg, or a writer of pictures."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from wanvae_app.alpha import over_checkerboard
from wanvae_app.formats import ffmpeg
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.limits import Limits
from wanvae_app.frame_log import FrameLog

FRAMES_PER_WRITE = 8
PIXEL_FORMATS = {(1, 3): "rgb24", (1, 4): "rgba", (2, 3): "rgb48le", (2, 4): "rgba64le"}
MAX_DENOMINATOR = 1001  # of a frame rate: 30000/1001 is one
POLL_MILLISECONDS = 100  # between two looks at whether to stop

OnProgress = Callable[[int], None]  # gets the number of frames so far


class WritingStopped(Exception):
    """Writing was stopped, because who wanted the file no longer does."""


class FrameShape(NamedTuple):
    """What one frame is: rows, columns, channels (3, or 4 with alpha), bytes of one value (1 or 2)."""

    height: int
    width: int
    num_channels: int
    value_bytes: int

    @property
    def num_bytes(self) -> int:
        """Bytes of one frame."""
        return self.height * self.width * self.num_channels * self.value_bytes


def frame_batches(log: FrameLog) -> Iterator[np.ndarray]:
    """Yield the frames that the log has now, a few at a time. Raises ValueError if it is closed meanwhile."""
    for start in range(0, num_frames := len(log), FRAMES_PER_WRITE):
        yield log.read(start, min(start + FRAMES_PER_WRITE, num_frames))


def first_of(frames: Iterable[np.ndarray]) -> tuple[FrameShape, Iterator[np.ndarray]]:
    """Return the shape of the frames, and the same frames; the first batch is asked for.

    Batches are uint8 or uint16 [n, H, W, C]. Raises ValueError if there is none.
    """
    batches = iter(frames)
    first = next(batches, None)
    if first is None:
        raise ValueError("There are no frames to write.")
    assert first.dtype in (np.uint8, np.uint16) and first.ndim == 4, (first.dtype, first.shape)
    _, height, width, num_channels = first.shape

    def all_batches() -> Iterator[np.ndarray]:
        yield first
        yield from batches

    return FrameShape(height, width, num_channels, first.itemsize), all_batches()


def video_command(
    shape: FrameShape, rate: Fraction | float, arguments: Iterable[str], path: Path, sound: Iterable[str] = ()
) -> list[str]:
    """ffmpeg's command line that makes `path` of frames from its input.

    `arguments` stand between input and output. `sound` are those of a further input. Raises OSError without ffmpeg.
    """
    command = ffmpeg.command("-loglevel", "error", "-y", "-f", "rawvideo")
    command += ["-pix_fmt", PIXEL_FORMATS[shape.value_bytes, shape.num_channels]]
    command += ["-s", f"{shape.width}x{shape.height}", "-framerate", rate_text(rate), "-i", "pipe:0"]
    return [*command, *sound, *arguments, f"file:{path}"]


def rate_text(rate: Fraction | float) -> str:
    """A frame rate as ffmpeg takes it, such as 30000/1001 for 29.97002997."""
    exact = Fraction(rate).limit_denominator(MAX_DENOMINATOR)
    return f"{exact.numerator}/{exact.denominator}"


def write_frames(
    frames: FrameLog,
    path: Path,
    fps: Fraction | float,
    arguments: list[str],
    *,
    limits: Limits | None = None,
    timeout: float = ffmpeg.FILE_TIMEOUT,
    keeps_alpha: bool = False,
) -> None:
    """Write all frames that the log has now to `path`. `arguments` are those of ffmpeg between input and output.

    Frames with alpha are written as they are seen, over a checkerboard, unless the file `keeps_alpha`.
    Raises as `feed` does, and ValueError if the log is closed meanwhile.
    """
    batches = frame_batches(frames)
    shape, batches = first_of(batches if keeps_alpha else map(over_checkerboard, batches))
    feed(video_command(shape, fps, arguments, path), batches, path, limits=limits, timeout=timeout)


def feed(
    command: list[str],
    batches: Iterable[np.ndarray],
    path: Path,
    *,
    program: str = "ffmpeg",
    limits: Limits | None = None,
    timeout: float = ffmpeg.FILE_TIMEOUT,
    is_stopped: StopCheck | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Run a command, called `program` in sentences, that reads the frames from its input and writes `path`.

    `on_progress` gets the number of frames so far after each batch. No file is left after an error. Raises OSError,
    with a sentence, if the command is missing, fails, or takes too long; WritingStopped soon after `is_stopped`
    returned true.
    """
    check_stop = is_stopped or (lambda: False)
    is_written = False
    try:
        with ffmpeg.running(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, limits=limits, timeout=timeout
        ) as writer:
            pipe = writer.process.stdin
            assert pipe is not None
            # The command closes the pipe early if it cannot write; its last error then says why.
            with contextlib.suppress(BrokenPipeError), pipe:
                num_frames = 0
                for batch in batches:
                    _write_all(pipe, np.ascontiguousarray(batch).data.cast("B"), check_stop)
                    num_frames += len(batch)
                    if on_progress is not None:
                        on_progress(num_frames)
            while is_stopped is not None and writer.process.poll() is None:
                if is_stopped():
                    raise WritingStopped("The writing was stopped.")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    writer.process.wait(POLL_MILLISECONDS / 1000)
            status = writer.wait()
            if writer.is_hung:
                raise OSError(f"{program} could not write {path.name} in {timeout / 60:.0f} minutes")
            if status != 0:
                raise OSError(f"{program} could not write {path.name}: {writer.last_error()}")
            is_written = True
    finally:
        if not is_written:
            path.unlink(missing_ok=True)


def _write_all(pipe: IO[bytes], data: memoryview, is_stopped: StopCheck) -> None:
    """Write all of `data` to an unbuffered pipe. Raises WritingStopped, also while its reader is busy."""
    os.set_blocking(pipe.fileno(), False)
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    while data:
        if is_stopped():
            raise WritingStopped("The writing was stopped.")
        if poll.poll(POLL_MILLISECONDS):
            data = data[pipe.write(data) or 0 :]
