"""MP4 out: finished frames, written through ffmpeg."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import IO

from wanvae_app.formats import ffmpeg
from wanvae_app.frame_log import FrameLog

PIECE = 8  # frames at a time


def write_mp4(frames: FrameLog, path: Path, fps: float) -> None:
    """Write all frames as H.264, 4:2:0 with BT.709 colours, near to lossless, playable while it loads.

    Raises OSError, with a sentence, if ffmpeg is missing or the disk is full.
    """
    command = ffmpeg.command("-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24")
    command += ["-s", f"{frames.width}x{frames.height}", "-framerate", f"{fps:g}", "-i", "pipe:0"]
    # 4:2:0 has half as many colour samples each way, so sides must be even; ours are multiples of 8.
    command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "14", "-pix_fmt", "yuv420p"]
    command += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    command += ["-movflags", "+faststart", "-f", "mp4", str(path)]
    with ffmpeg.running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as writer:
        pipe = writer.process.stdin
        assert pipe is not None
        # ffmpeg ends early when it cannot write; its own words say why.
        with contextlib.suppress(BrokenPipeError), pipe:
            for start in range(0, len(frames), PIECE):
                _write(pipe, frames.read(start, min(start + PIECE, len(frames))).data.cast("B"))
        if writer.end() != 0:
            path.unlink(missing_ok=True)
            raise OSError(f"ffmpeg could not write {path.name}: {writer.last_words()}")


def _write(pipe: IO[bytes], data: memoryview) -> None:
    """All of `data`; a pipe without a buffer takes what fits."""
    while data:
        data = data[pipe.write(data) :]
