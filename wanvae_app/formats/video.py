"""Videos in files: read piece by piece through ffmpeg, cropped to what the VAE takes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from wanvae_app.config import WanConfig
from wanvae_app.formats import ffmpeg
from wanvae_app.formats.lazy_tensor import plain
from wanvae_app.frame_log import FrameLog

MAX_FRAMES = 1001
MAX_PIXELS = 1920 * 1088  # larger pictures are scaled down
MAX_INPUT_PIXELS = 2**25  # larger pictures, beyond 7680x4320, are not opened
MAX_SIDE = 8192  # nor are wider or higher ones
DEFAULT_FPS = 16.0  # of a file that does not tell
DAMAGE = re.compile(r"partial file|ended prematurely|Decoding error|Error submitting packet|LZW decode")
HARM = re.compile(r"error while decoding|corrupt decoded frame|concealing")  # parts of pictures are guessed
MIN_FPS, MAX_FPS = 0.1, 1000.0


@dataclass(frozen=True)
class Video:
    """A clip as the VAE takes it; `fitted` says in a sentence what was changed for that, empty if nothing."""

    frames: FrameLog
    fps: float
    fitted: str


@dataclass(frozen=True)
class _Plan:
    """What a file's header says, and what is done with its pictures. Sizes are (width, height), in pixels."""

    size: tuple[int, int]  # after rotation
    scaled: tuple[int, int]
    cropped: tuple[int, int]
    fps: float | None
    seconds: float | None

    def changes(self) -> list[str]:
        """Scaling and cropping, in words, where there is any."""
        steps = (("scaled", self.size, self.scaled), ("cropped", self.scaled, self.cropped))
        return [f"{how} from {_by(a)} to {_by(b)}" for how, a, b in steps if a != b]

    def filters(self) -> str:
        """For ffmpeg. Scaled to the same size, most pictures stay as they are; but sizes may change within a file."""
        return f"scale={self.scaled[0]}:{self.scaled[1]},crop={self.cropped[0]}:{self.cropped[1]}"


def is_video(path: Path) -> bool:
    """Whether the file's content, whatever its name, is MP4, QuickTime, WebM, Matroska, GIF or AVI."""
    return _container(path) is not None


def describe_video(path: Path, config: WanConfig) -> str:
    """A sentence about a video file, from its header alone. Raises ValueError and OSError as read_video does."""
    plan = _plan(path, config, MAX_FRAMES)
    details = [f"{_by(plan.size)} pixels"]
    if plan.fps:
        details.append(f"{plan.fps:.4g} frames per second")
    if plan.seconds:
        details.append(f"{plan.seconds:.1f} s")
    done = ", ".join([*plan.changes(), "encoded to a latent"])
    return f"Video, {', '.join(details)}: it will be {done}, then decoded again."


def read_video(path: Path, config: WanConfig, folder: Path | None, max_frames: int = MAX_FRAMES) -> Video:
    """The clip in a video file, cropped (larger ones scaled, too) to the VAE's multiples, 1 + 4 k frames.

    The frames go into a log in `folder`, so memory stays flat (None: into memory). Raises ValueError, in one
    sentence, for what cannot be read, is too small, too large or too long; sizes are looked at before
    anything is decoded. Raises OSError if there is no ffmpeg.
    """
    plan = _plan(path, config, max_frames)
    width, height = plan.cropped
    log = FrameLog(height, width, folder)
    step, held, num_read = config.temporal_factor, [], 0
    harm: list[str] = []
    try:
        for frame in _decode(path, plan.filters(), height, width, max_frames + 1, harm):
            num_read += 1
            if num_read > max_frames:
                raise ValueError(_too_long(path, max_frames))
            held.append(frame)
            if len(held) == (step if len(log) else 1):  # the log always has 1 + 4 k
                log.append(np.stack(held))
                held.clear()
        if not len(log):
            raise ValueError(f"{path.name} has no frames; give a video with at least one.")
    except BaseException:
        log.close()
        raise
    log.finish()
    changes = plan.changes()
    if num_read != len(log):
        changes.append(f"cut from {num_read} to {len(log)} frames")
    fitted = f"The video was {' and '.join(changes)}, as the VAE needs." if changes else ""
    if harm:
        fitted += " " * bool(fitted) + "The file is damaged, and parts of its pictures are guessed."
    fps = plan.fps or (num_read / plan.seconds if plan.seconds else DEFAULT_FPS)
    return Video(log, min(max(fps, MIN_FPS), MAX_FPS), fitted)


def _container(path: Path) -> str | None:
    """ffmpeg's name for the container. Only these are opened, and by name: others (playlists) open files."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "avi" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


def _input(path: Path, *options: str) -> list[str]:
    container = _container(path)
    if container is None:
        raise ValueError(f"{path.name} is not a video (.mp4, .mov, .webm, .gif) by its content.")
    arguments = ["-nostdin", "-protocol_whitelist", "file,pipe", *options]
    return ffmpeg.command(*arguments, "-f", container, "-i", f"file:{path.resolve()}")


def _plan(path: Path, config: WanConfig, max_frames: int) -> _Plan:
    """Look at the header, decode nothing, and refuse what is too small, too large or too long."""
    try:
        text = ffmpeg.output(_input(path), timeout=60)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path.name} cannot be read: ffmpeg found no end in it.") from error
    limit = f"at most {MAX_SIDE} on a side and {MAX_INPUT_PIXELS} in all are taken"
    stream = re.search(r"Stream #\d+:\d+.*?: Video: .*?, (\d+)x(\d+)\b(.*)", text)
    if stream is None:
        if "unspecified size" in text:
            raise ValueError(f"{path.name} has pictures of no size that can be read; {limit}.")
        if "Audio:" in text and "Video:" not in text:
            raise ValueError(f"{path.name} has sound but no pictures; give a video.")
        raise ValueError(f"{path.name} is damaged or cut off: no video was found in it.")
    width, height = int(stream[1]), int(stream[2])
    rotation = re.search(r"rotation of (-?[\d.]+) degrees", text[stream.start() :])
    turned = rotation is not None and round(abs(float(rotation[1])) / 90) % 2 == 1
    if turned:
        width, height = height, width
    factor = config.spatial_factor
    if min(width, height) < factor:
        raise ValueError(
            f"{path.name} is {width}x{height} pixels; this VAE needs at least {factor}x{factor}."
        )
    if max(width, height) > MAX_SIDE or width * height > MAX_INPUT_PIXELS:
        raise ValueError(f"{path.name} is {width}x{height} pixels; {limit}.")
    # The average; "tbr", which is also given, may be a clock's rate, 1,000 a second.
    rate = re.search(r"([\d.]+)(k?) fps", stream[3])
    fps = float(rate[1]) * (1000 if rate[2] else 1) if rate else None
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
    seconds = int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None
    too_long = fps and seconds and seconds * fps > max_frames + fps
    # With sound, it may be that which is long.
    if too_long and ("Audio:" not in text or _has_more(path, max_frames)):
        raise ValueError(_too_long(path, max_frames))
    shape = re.search(r"\[SAR (\d+):(\d+) ", stream[3])
    wide = int(shape[1]) / max(int(shape[2]), 1) if shape else 1.0  # a pixel, in its height
    if not 1 / 4 <= wide <= 4:  # no camera's
        wide = 1.0
    shown = (width, round(height * wide)) if turned else (round(width * wide), height)
    scaled = _scaled(max(shown[0], factor), max(shown[1], factor), factor)
    cropped = (scaled[0] // factor * factor, scaled[1] // factor * factor)
    return _Plan((width, height), scaled, cropped, fps, seconds)


def _has_more(path: Path, num_frames: int) -> bool:
    """Whether there are more pictures than so many; nothing is decoded."""
    counting = ["-map", "0:v:0", "-c", "copy", "-frames:v", str(num_frames + 1), "-f", "null", "-"]
    try:
        counts = re.findall(r"frame=\s*(\d+)", ffmpeg.output([*_input(path), *counting], timeout=60))
    except subprocess.TimeoutExpired:
        return True
    return not counts or int(counts[-1]) > num_frames


def _too_long(path: Path, max_frames: int) -> str:
    return f"{path.name} is too long: at most {max_frames} frames are taken; cut it shorter."


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _scaled(width: int, height: int, factor: int) -> tuple[int, int]:
    """The size after scaling down to MAX_PIXELS, if that is needed at all; never under one latent row."""
    if width * height <= MAX_PIXELS:
        return width, height
    shrink = (MAX_PIXELS / (width * height)) ** 0.5
    return max(factor, round(width * shrink)), max(factor, round(height * shrink))


def _decode(
    path: Path, filters: str, height: int, width: int, max_frames: int, harm: list[str]
) -> Iterator[np.ndarray]:
    """The frames of a file, uint8 [H, W, 3]; each once, however unevenly they are timed. At the end `harm` has what
    ffmpeg said of damage that it concealed."""
    # A picture may turn out larger than the header says.
    command = [
        *_input(path, "-max_pixels", str(MAX_INPUT_PIXELS)),
        "-map",
        "0:v:0",
        "-frames:v",
        str(max_frames),
        "-fps_mode",
        "passthrough",
    ]
    command += ["-vf", filters, "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
    command += ["-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    size = height * width * 3
    with ffmpeg.running(command, stdout=subprocess.PIPE) as reader:
        pipe = reader.process.stdout
        assert pipe is not None
        num_frames = 0
        while len(data := _read(pipe, size)) == size:
            num_frames += 1
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        status, complaints = reader.end(), reader.complaints()
        if data or DAMAGE.search(complaints):  # where ffmpeg would make do with the rest
            raise ValueError(f"{path.name} is damaged or cut off after {num_frames} frames; save it again.")
        if status != 0 and "no packets" not in complaints:
            raise ValueError(f"{path.name} cannot be decoded: {plain(reader.last_words(), 160)}.")
        harm += HARM.findall(complaints)


def _read(pipe: IO[bytes], size: int) -> bytes:
    """`size` bytes, fewer only at the end."""
    parts = []
    while size and (part := pipe.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
