"""The frames of a log, piped into ffmpeg, which makes a file of them."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import IO

from wanvae_app.formats import ffmpeg
from wanvae_app.formats.limits import Limits
from wanvae_app.frame_log import FrameLog

FRAMES_PER_WRITE = 8


def write_frames(
    frames: FrameLog,
    path: Path,
    fps: float,
    arguments: list[str],
    *,
    limits: Limits | None = None,
    timeout: float = ffmpeg.FILE_TIMEOUT,
    keeps_alpha: bool = False,
) -> None:
    """Write all frames that the log has now to `path`. `arguments` are those of ffmpeg between input and output.

    Frames with alpha are written as they are seen, unless the file `keeps_alpha`.

    No file is left after an error. Raises OSError, with a sentence, if ffmpeg is missing or cannot write the file;
    ValueError if the log is closed meanwhile.
    """
    read, pixels = (
        (frames.read, "rgba") if keeps_alpha and frames.channels == 4 else (frames.read_seen, "rgb24")
    )
    command = ffmpeg.command("-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", pixels)
    command += ["-s", f"{frames.width}x{frames.height}", "-framerate", f"{fps:g}", "-i", "pipe:0"]
    command += [*arguments, str(path)]
    is_written = False
    try:
        with ffmpeg.running(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, limits=limits, timeout=timeout
        ) as writer:
            pipe = writer.process.stdin
            assert pipe is not None
            # ffmpeg closes the pipe early if it cannot write; its last error then says why.
            with contextlib.suppress(BrokenPipeError), pipe:
                for start in range(0, len(frames), FRAMES_PER_WRITE):
                    stop = min(start + FRAMES_PER_WRITE, len(frames))
                    _write_all(pipe, read(start, stop).data.cast("B"))
            if writer.wait() != 0:
                raise OSError(f"ffmpeg could not write {path.name}: {writer.last_error()}")
            is_written = True
    finally:
        if not is_written:
            path.unlink(missing_ok=True)


def _write_all(pipe: IO[bytes], data: memoryview) -> None:
    """Write all of `data` to an unbuffered pipe, whose `write` may accept a part."""
    while data:
        data = data[pipe.write(data) :]
