"""Video files for tests, made with ffmpeg."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg with these arguments, overwriting its output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


def pattern(path: Path, *options: str, size: str = "48x32", rate: int = 12, frames: int = 9) -> Path:
    """Write a moving test pattern, encoded with these ffmpeg options; returns the path."""
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}", "-frames:v", str(frames), *options, path)
    return path


def small_gif(path: Path, num_frames: int, size: tuple[int, int]) -> Path:
    """Write a GIF of this many frames, each of which changes one pixel in 23 bytes; returns the path."""
    start = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    frames = (
        b"\x21\xf9\x04\x04\x04\0\0\0," + struct.pack("<HHHHB", i % 8, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
        for i in range(num_frames)
    )
    path.write_bytes(start + b"".join(frames) + b";")
    return path
