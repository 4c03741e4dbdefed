"""MP4 files, written through ffmpeg."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import IO

from wanvae_app.formats import ffmpeg
from wanvae_app.frame_log import FrameLog

FRAMES_PER_WRITE = 8
# 4:2:0 halves the colour samples in both directions, so sides must be even; a VAE's are multiples of 8.
TO_YUV = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p"
# Every player needs all four: below 720 lines, browsers take colours without them for those of old television. They
# are properties of the frames, because ffmpeg 9 ignores the encoder's options for primaries and transfer.
COLOUR_TAGS = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"


def write_mp4(frames: FrameLog, path: Path, fps: float) -> None:
    """Write all frames as H.264, nearly lossless, in 4:2:0 with BT.709 colours, limited range; players can start before
    the end.

    Height and width must be even. Raises OSError, with a sentence, if ffmpeg is missing or cannot write the file.
    """
    command = ffmpeg.command("-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24")
    command += ["-s", f"{frames.width}x{frames.height}", "-framerate", f"{fps:g}", "-i", "pipe:0"]
    command += ["-vf", f"{TO_YUV},{COLOUR_TAGS}", "-c:v", "libx264", "-preset", "veryfast", "-crf", "14"]
    command += ["-movflags", "+faststart", "-f", "mp4", str(path)]
    with ffmpeg.running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as writer:
        pipe = writer.process.stdin
        assert pipe is not None
        # ffmpeg closes the pipe early if it cannot write; its last error then says why.
        with contextlib.suppress(BrokenPipeError), pipe:
            for start in range(0, len(frames), FRAMES_PER_WRITE):
                stop = min(start + FRAMES_PER_WRITE, len(frames))
                _write_all(pipe, frames.read(start, stop).data.cast("B"))
        if writer.wait() != 0:
            path.unlink(missing_ok=True)
            raise OSError(f"ffmpeg could not write {path.name}: {writer.last_error()}")


def _write_all(pipe: IO[bytes], data: memoryview) -> None:
    """Write all of `data` to an unbuffered pipe, whose `write` may accept a part."""
    while data:
        data = data[pipe.write(data) :]
