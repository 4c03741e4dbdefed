"""ffmpeg, started on a video file that is not trusted, or on the pictures of a zip or a folder."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wanvae_app.formats import ffmpeg
from wanvae_app.formats.ffmpeg import Ffmpeg
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.pictures import feeding, refusal
from wanvae_app.formats.video_container import PICTURES, find_container

SAFE = ("-nostdin", "-loglevel", "error", "-protocol_whitelist", "file,pipe")


class Pictures(NamedTuple):
    """Which pictures of a zip or a folder are read, counted from 0, and by which of ffmpeg's demuxers."""

    numbers: range
    demuxer: str


def input_command(path: Path, *options: str) -> list[str]:
    """An ffmpeg command line that reads the file, with options for its input; arguments for the output may follow.

    Raises ValueError, with one sentence, if the file is no video; OSError if there is no ffmpeg.
    """
    container = check_container(path)
    return ffmpeg.command(*SAFE, *options, "-f", container, "-i", f"file:{path.resolve()}")


def check_container(path: Path) -> str:
    """The file's container, see `find_container`. Raises ValueError, with one sentence, if it is no video."""
    container = find_container(path)
    if container is None:
        raise ValueError(
            f"{path.name} is not a video (.mp4, .mov, .mkv, .webm, .gif and more) by its content."
        )
    return container


@contextlib.contextmanager
def reading(
    path: Path,
    options: Sequence[str],
    output: Sequence[str],
    *,
    limits: Limits,
    timeout: float = ffmpeg.FILE_TIMEOUT,
    pictures: Pictures | None = None,
) -> Iterator[Ffmpeg]:
    """Run ffmpeg on the file during the block, with options for its input, and arguments for its output.

    `pictures` says which ones of a zip or a folder are read. At the end of the block, raises ValueError, with one
    sentence, if one of them could not be unpacked. Otherwise raises as `input_command` does.
    """
    if pictures is None:
        command = [*input_command(path, *options), *output]
        with ffmpeg.running(command, stdout=subprocess.PIPE, limits=limits, timeout=timeout) as reader:
            yield reader
        return
    assert find_container(path) == PICTURES
    command = ffmpeg.command(*SAFE, *options, "-f", pictures.demuxer, "-i", "pipe:0", *output)
    with feeding(path, pictures.numbers) as feed:
        pipe = feed.process.stdout
        assert pipe is not None
        with ffmpeg.running(
            command, stdin=pipe.fileno(), stdout=subprocess.PIPE, limits=limits, timeout=timeout
        ) as reader:
            pipe.close()  # else the process would not notice that ffmpeg has ended
            yield reader
        if feed.wait() != 0:  # then pictures may be missing
            raise refusal(path, feed)
