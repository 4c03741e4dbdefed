"""Video headers: sizes, rate and length of a file as ffmpeg reports them. Nothing is decoded."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wanvae_app.formats import ffmpeg

MAX_INPUT_SIDE = 8192  # pixels of a picture's width or height
MAX_INPUT_PIXELS = 2**25  # of a picture; 7680x4320 has a little fewer
HEADER_TIMEOUT = 60.0  # seconds


class Size(NamedTuple):
    """Width and height of a picture in pixels; as text, "640x480"."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class VideoHeader:
    """What a file says about its pictures. Both sizes are those of upright pictures, after rotation."""

    size: Size
    display_size: Size  # with square pixels
    fps: float | None
    seconds: float | None


def find_container(path: Path) -> str | None:
    """ffmpeg's name for the file's container, from its first bytes; None unless it is a video container.

    ffmpeg opens files with this demuxer alone. Others, such as those for playlists, open further files.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "avi" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


def input_command(path: Path, *options: str) -> list[str]:
    """An ffmpeg command line that reads the file, with options for its input; arguments for the output may follow.

    Raises ValueError, with one sentence, if the file is no video; OSError if there is no ffmpeg.
    """
    container = find_container(path)
    if container is None:
        raise ValueError(f"{path.name} is not a video (.mp4, .mov, .webm, .gif) by its content.")
    arguments = ["-nostdin", "-protocol_whitelist", "file,pipe", *options]
    return ffmpeg.command(*arguments, "-f", container, "-i", f"file:{path.resolve()}")


def read_header(path: Path, min_side: int, max_frames: int) -> VideoHeader:
    """Read a video's header.

    Raises ValueError, with one sentence, for a file that is no video, is damaged, has sides under `min_side` or over
    MAX_INPUT_SIDE pixels, or has more than about `max_frames` frames; OSError if there is no ffmpeg.
    """
    try:
        text = ffmpeg.error_output(input_command(path), HEADER_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path.name} cannot be read: ffmpeg found no end in it.") from error
    limit = f"at most {MAX_INPUT_SIDE} on a side and {MAX_INPUT_PIXELS} in all are taken"
    stream = re.search(r"Stream #\d+:\d+.*?: Video: .*?, (\d+)x(\d+)\b(.*)", text)
    if stream is None:
        if "unspecified size" in text:
            raise ValueError(f"{path.name} has pictures of no size that can be read; {limit}.")
        if "Audio:" in text and "Video:" not in text:
            raise ValueError(f"{path.name} has sound but no pictures; give a video.")
        raise ValueError(f"{path.name} is damaged or cut off: no video was found in it.")
    width, height, details = int(stream[1]), int(stream[2]), stream[3]
    rotation = re.search(r"rotation of (-?[\d.]+) degrees", text[stream.start() :])
    is_turned = rotation is not None and round(abs(float(rotation[1])) / 90) % 2 == 1
    size = Size(height, width) if is_turned else Size(width, height)
    if min(size) < min_side:
        raise ValueError(f"{path.name} is {size} pixels; this VAE needs at least {min_side}x{min_side}.")
    if max(size) > MAX_INPUT_SIDE or size.width * size.height > MAX_INPUT_PIXELS:
        raise ValueError(f"{path.name} is {size} pixels; {limit}.")
    # "fps" is the average. "tbr", which ffmpeg also prints, may be a clock's rate, such as 1,000 a second.
    rate = re.search(r"([\d.]+)(k?) fps", details)
    fps = float(rate[1]) * (1000 if rate[2] else 1) if rate else None
    duration = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
    seconds = None
    if duration:
        seconds = int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3])
    is_too_long = fps and seconds and seconds * fps > max_frames + fps
    # The duration is that of the longest stream, which may be the sound.
    if is_too_long and ("Audio:" not in text or _has_more(path, max_frames)):
        raise too_long(path, max_frames)
    return VideoHeader(size, _display_size(size, is_turned, details), fps, seconds)


def too_long(path: Path, max_frames: int) -> ValueError:
    """The ValueError for a video of more than `max_frames` frames."""
    return ValueError(f"{path.name} is too long: at most {max_frames} frames are taken; cut it shorter.")


def _display_size(size: Size, is_turned: bool, details: str) -> Size:
    """The size with square pixels, from ffmpeg's details of a stream whose pictures may lie on their side."""
    sample_aspect_ratio = re.search(r"\[SAR (\d+):(\d+) ", details)
    if sample_aspect_ratio is None:
        return size
    ratio = int(sample_aspect_ratio[1]) / max(
        int(sample_aspect_ratio[2]), 1
    )  # a stored pixel's width / height
    if not 1 / 4 <= ratio <= 4:  # no camera's
        return size
    if is_turned:
        return Size(size.width, round(size.height * ratio))
    return Size(round(size.width * ratio), size.height)


def _has_more(path: Path, num_frames: int) -> bool:
    """Whether the video has more than `num_frames` frames, by counting packets; true if that takes too long."""
    counting = ["-map", "0:v:0", "-c", "copy", "-frames:v", str(num_frames + 1), "-f", "null", "-"]
    try:
        text = ffmpeg.error_output([*input_command(path), *counting], HEADER_TIMEOUT)
    except subprocess.TimeoutExpired:
        return True
    counts = re.findall(r"frame=\s*(\d+)", text)
    return not counts or int(counts[-1]) > num_frames
