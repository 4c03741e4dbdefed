"""Lossless files of frames: FFV1 (RFC 9043) in Matroska, written and read through ffmpeg.

FFV1 keeps RGB bit for bit, and codes every frame by itself. docs/performance.md compares it with others: of 97 MB that
a VAE decoded, it makes 21 MB in 3 s. ffmpeg guesses what is damaged, so a file is checked against its digest before it
is read.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wanvae_app.device import num_cores
from wanvae_app.formats import ffmpeg
from wanvae_app.formats.frame_writer import write_frames
from wanvae_app.formats.limits import Limits
from wanvae_app.frame_log import FrameLog

ENCODER = ["-c:v", "ffv1", "-level", "3", "-slices", "4", "-g", "1"]
PIXELS = {3: "bgr0", 4: "bgra"}  # of FFV1, by channels
# A picture as ffmpeg pipes it, by channels: the encoder, its pixels, and the header, which states the size.
PIPED = {
    3: ("ppm", "rgb24", "P6\n{width} {height}\n255\n"),
    4: (
        "pam",
        "rgba",
        "P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n",
    ),
}
MAX_THREADS = 4
TIMEOUT = 3600.0  # seconds for a file: its process has the lowest priority
CPU_SECONDS = 120  # for a small file
BYTES_PER_CPU_SECOND = 10**7  # of the frames of a larger one
ADDRESS_SPACE = 2**31  # bytes for small frames
PADDING = 128  # rows and columns that a decoder's pictures have more, at most
FRAMES_HELD = 64  # frames for which a process has room
GROWTH = 2  # largest size of a file per byte of its frames: small noise becomes larger
OVERHEAD = 2**20  # bytes that a file may have besides


def write_lossless(frames: FrameLog, path: Path) -> str:
    """Write all frames of a log, in a limited process of the lowest priority. Return the file's digest.

    Raises as `write_frames` does.
    """
    written = GROWTH * frames.num_bytes + OVERHEAD
    limits = _limits(frames.num_bytes, frames.frame_bytes, written)
    arguments = [*ENCODER, "-pix_fmt", PIXELS[frames.channels], "-threads", _threads(), "-f", "matroska"]
    write_frames(frames, path, 1, arguments, limits=limits, timeout=TIMEOUT, keeps_alpha=True)
    return _digest(path)


def read_lossless(
    path: Path, digest: str, height: int, width: int, num_frames: int, channels: int = 3
) -> Iterator[np.ndarray]:
    """Yield the frames that `write_lossless` wrote, one by one, uint8 [H, W, C]; the process is a limited one.

    Raises ValueError, with a sentence without a path, if the file is not the one of this digest, or does not hold
    `num_frames` frames of this size; OSError if the file or ffmpeg is missing.
    """
    if _digest(path) != digest:
        raise ValueError("the file of the frames is damaged")
    encoder, pixels, text = PIPED[channels]
    header = text.format(width=width, height=height).encode()
    num_bytes = height * width * channels
    command = ffmpeg.command("-loglevel", "error", "-nostdin", "-xerror")
    command += ["-protocol_whitelist", "file", "-f", "matroska", "-threads", _threads(), "-c:v", "ffv1"]
    max_pixels = (height + PADDING) * (width + PADDING)
    command += ["-max_pixels", str(max_pixels), "-i", f"file:{path}", "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", encoder, "-pix_fmt", pixels, "pipe:1"]
    limits = _limits(num_bytes * num_frames, num_bytes, 0)
    num_read = 0
    with ffmpeg.running(command, stdout=subprocess.PIPE, limits=limits, timeout=TIMEOUT) as reader:
        while (data := reader.read(len(header) + num_bytes)).startswith(header) and num_read < num_frames:
            if len(data) < len(header) + num_bytes:
                break
            num_read += 1
            yield np.frombuffer(data, np.uint8, offset=len(header)).reshape(height, width, channels)
        is_whole = not data and num_read == num_frames and reader.wait() == 0
        if not is_whole:
            raise ValueError(f"the file holds no {num_frames} frames of {width}x{height}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _limits(num_bytes: int, frame_bytes: int, written_bytes: int) -> Limits:
    return Limits(
        cpu_seconds=CPU_SECONDS + num_bytes // BYTES_PER_CPU_SECOND,
        memory_bytes=ADDRESS_SPACE + FRAMES_HELD * frame_bytes,
        written_bytes=written_bytes,
        is_background=True,
    )


def _threads() -> str:
    """Threads of a process: half of the cores stay free for decoding."""
    return str(max(1, min(MAX_THREADS, num_cores() // 2)))
