"""Numbered pictures in a zip or a folder, as a clip: counted, and fed to ffmpeg one after the other."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wanvae_app.formats import ffmpeg
from wanvae_app.formats.ffmpeg import Ffmpeg, StopCheck
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.picture_feed import REFUSED
from wanvae_app.formats.untrusted_text import printable

ROOT = Path(__file__).resolve().parents[2]
MODULE = "wanvae_app.formats.picture_feed"
# -I and -S: neither the environment nor installed packages are looked at, so it starts in 30 ms.
PROGRAM = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module({!r}, run_name='__main__')"
COUNT_TIMEOUT = 30.0  # seconds
COUNT_LIMITS = Limits(cpu_seconds=10, memory_bytes=2**29)
FEED_LIMITS = Limits(cpu_seconds=int(ffmpeg.FILE_TIMEOUT), memory_bytes=2**29)
MAX_SENTENCE = 200  # characters of a refusal


class PictureCount(NamedTuple):
    """How many pictures there are, and ffmpeg's demuxer for them."""

    num_pictures: int
    demuxer: str


def count_pictures(path: Path, stopped: StopCheck | None = None) -> PictureCount:
    """Count the pictures in a zip or a folder.

    Raises ValueError, with one sentence, if there are none or the zip cannot be read; ReadingStopped.
    """
    with ffmpeg.running(
        _command(path), stdout=subprocess.PIPE, limits=COUNT_LIMITS, timeout=COUNT_TIMEOUT
    ) as feed:
        answer = feed.read(64, stopped).decode(errors="replace").split()
        if feed.wait() != 0 or len(answer) != 2:
            raise refusal(path, feed)
    return PictureCount(int(answer[0]), f"{answer[1]}_pipe")


@contextlib.contextmanager
def feeding(path: Path, pictures: range) -> Iterator[Ffmpeg]:
    """Run the process that writes these pictures, counted from 0, to its standard output, during the block."""
    numbers = (pictures.start, pictures.stop, pictures.step)
    with ffmpeg.running(_command(path, *numbers), stdout=subprocess.PIPE, limits=FEED_LIMITS) as feed:
        yield feed


def refusal(path: Path, feed: Ffmpeg) -> ValueError:
    """The ValueError for a process that could not write the pictures."""
    if feed.is_hung:
        return ValueError(f"{path.name} cannot be read: unpacking it takes too long.")
    said = feed.last_error()
    if feed.process.returncode != REFUSED:
        return ValueError(f"{path.name} cannot be read: unpacking it takes more time or memory than it may.")
    return ValueError(f"{path.name} {printable(said, MAX_SENTENCE)}.")


def _command(path: Path, *numbers: int) -> list[str]:
    arguments = [str(ROOT), str(path.resolve()), *map(str, numbers)]
    return [sys.executable, "-I", "-S", "-c", PROGRAM.format(MODULE), *arguments]
