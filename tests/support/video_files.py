"""Video files for tests, made with ffmpeg."""

from __future__ import annotations

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
