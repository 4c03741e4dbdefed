"""Video files, decoded frame by frame through ffmpeg and fitted to the sizes that the VAE takes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from wanvae_app.config import WanConfig
from wanvae_app.formats import ffmpeg
from wanvae_app.formats.untrusted_text import MAX_ERROR_LENGTH, printable
from wanvae_app.formats.video_header import (
    MAX_INPUT_PIXELS,
    Size,
    VideoHeader,
    find_container,
    input_command,
    read_header,
    too_long,
)
from wanvae_app.frame_log import FrameLog

MAX_FRAMES = 1001
MAX_PIXELS = 1920 * 1088  # of a picture; larger ones are scaled down
MIN_FPS, MAX_FPS = 0.1, 1000.0
DEFAULT_FPS = 16.0  # of a file that states neither rate nor length
# ffmpeg's errors where frames are missing, and where it guessed parts of them.
MISSING_FRAMES = re.compile(
    r"partial file|ended prematurely|Decoding error|Error submitting packet|LZW decode"
)
CONCEALED_DAMAGE = re.compile(r"error while decoding|corrupt decoded frame|concealing")


@dataclass(frozen=True)
class Video:
    """A clip of 1 + 4 k frames in the sizes that the VAE takes.

    `note` says in sentences how the clip differs from the file; it is empty if it does not.
    """

    frames: FrameLog
    fps: float
    note: str


@dataclass(frozen=True)
class _Fit:
    """How pictures are fitted to the VAE: first scaled, then cropped in the middle."""

    size: Size
    scaled: Size
    cropped: Size

    def changes(self) -> list[str]:
        """The steps that change the size, in words."""
        steps = (("scaled", self.size, self.scaled), ("cropped", self.scaled, self.cropped))
        return [f"{step} from {before} to {after}" for step, before, after in steps if before != after]

    def filters(self) -> str:
        """The steps as ffmpeg's filters. Even an unchanged size is given, because sizes may change within a file."""
        return (
            f"scale={self.scaled.width}:{self.scaled.height},crop={self.cropped.width}:{self.cropped.height}"
        )


def is_video(path: Path) -> bool:
    """Whether the file is MP4, QuickTime, WebM, Matroska, GIF or AVI, by its first bytes."""
    return find_container(path) is not None


def describe_video(path: Path, config: WanConfig) -> str:
    """A sentence for the page about a video file, from its header alone.

    Raises ValueError and OSError as read_video does.
    """
    header = read_header(path, config.spatial_factor, MAX_FRAMES)
    details = [f"{header.size} pixels"]
    if header.fps:
        details.append(f"{header.fps:.4g} frames per second")
    if header.seconds:
        details.append(f"{header.seconds:.1f} s")
    fit = _fit(header, config.spatial_factor)
    done = ", ".join([*fit.changes(), "encoded to a latent"])
    return f"Video, {', '.join(details)}: it will be {done}, then decoded again."


class VideoPlan(NamedTuple):
    """What reading a video makes at most, by its header alone."""

    num_frames_bound: int
    height: int  # of a frame, fitted to the VAE
    width: int
    num_bytes_bound: int  # of all frames, uint8 RGB
    num_memory_bytes_bound: int  # that reading takes besides


def video_plan(path: Path, config: WanConfig, *, stopped: Callable[[], bool] | None = None) -> VideoPlan:
    """Say what reading a video will make, from its header. Raises ValueError and OSError as read_video does."""
    header = read_header(path, config.spatial_factor, MAX_FRAMES)
    width, height = _fit(header, config.spatial_factor).cropped
    num_frames = _num_frames_bound(header, MAX_FRAMES)
    num_memory_bytes = 2**28 + 100 * header.size.width * header.size.height  # ffmpeg keeps about 30 pictures
    return VideoPlan(num_frames, height, width, num_frames * height * width * 3, num_memory_bytes)


def read_video(
    path: Path,
    config: WanConfig,
    folder: Path | None,
    max_frames: int = MAX_FRAMES,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Video:
    """Read a video file as a clip of 1 + 4 k frames, scaled down and cropped to the VAE's multiples.

    The frames are kept in a file of `folder`, or in memory if it is None. Sizes are checked before anything is
    decoded. `on_progress` gets the number of frames read so far, and of all, at most. Reading ends between two frames
    once `stopped()`.

    Raises:
        ValueError: the file cannot be read, or is too small, too large or too long; the message is one sentence.
        OSError: there is no ffmpeg.
        InterruptedError: it was stopped.
    """
    header = read_header(path, config.spatial_factor, max_frames)
    fit = _fit(header, config.spatial_factor)
    bound = _num_frames_bound(header, max_frames)
    log = FrameLog(fit.cropped.height, fit.cropped.width, folder)
    decoder = _Decoder(path, fit, max_frames + 1)
    pending: list[np.ndarray] = []
    num_read = 0
    try:
        for frame in decoder.frames():
            num_read += 1
            if num_read > max_frames:
                raise too_long(path, max_frames)
            if stopped is not None and stopped():
                raise InterruptedError(f"reading {path.name} was stopped")
            if on_progress is not None:
                on_progress(num_read, bound)
            pending.append(frame)
            if len(pending) == (config.temporal_factor if len(log) else 1):
                log.append(np.stack(pending))  # 1 + 4 k frames so far
                pending.clear()
        if not len(log):
            raise ValueError(f"{path.name} has no frames; give a video with at least one.")
    except BaseException:
        log.close()
        raise
    log.finish()
    changes = fit.changes()
    if num_read != len(log):
        changes.append(f"cut from {num_read} to {len(log)} frames")
    notes = [f"The video was {' and '.join(changes)}, as the VAE needs."] if changes else []
    if decoder.concealed_damage:
        notes.append("The file is damaged, and parts of its pictures are guessed.")
    fps = header.fps or (num_read / header.seconds if header.seconds else DEFAULT_FPS)
    return Video(log, min(max(fps, MIN_FPS), MAX_FPS), " ".join(notes))


def _num_frames_bound(header: VideoHeader, max_frames: int) -> int:
    """How many frames a video has at most, as its header says."""
    if header.fps and header.seconds:
        return min(max_frames, round(header.fps * header.seconds) + 1)
    return max_frames


def _fit(header: VideoHeader, factor: int) -> _Fit:
    """Fit pictures to multiples of `factor` and at most MAX_PIXELS pixels, each side at least `factor`."""
    scaled = Size(max(header.display_size.width, factor), max(header.display_size.height, factor))
    num_pixels = scaled.width * scaled.height
    if num_pixels > MAX_PIXELS:
        shrink = (MAX_PIXELS / num_pixels) ** 0.5
        scaled = Size(max(factor, round(scaled.width * shrink)), max(factor, round(scaled.height * shrink)))
    cropped = Size(scaled.width // factor * factor, scaled.height // factor * factor)
    return _Fit(header.size, scaled, cropped)


class _Decoder:
    """Decodes at most `max_frames` frames of a file. `concealed_damage` is valid after the last frame."""

    def __init__(self, path: Path, fit: _Fit, max_frames: int) -> None:
        self.path = path
        self.fit = fit
        self.max_frames = max_frames
        self.concealed_damage = False

    def frames(self) -> Iterator[np.ndarray]:
        """The frames, uint8 [H, W, 3], each once, however unevenly they are timed.

        Raises ValueError, with one sentence, if frames are missing or cannot be decoded.
        """
        # A picture may turn out larger than the header says.
        command = input_command(self.path, "-max_pixels", str(MAX_INPUT_PIXELS))
        command += ["-map", "0:v:0", "-frames:v", str(self.max_frames), "-fps_mode", "passthrough"]
        command += ["-vf", self.fit.filters(), "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
        command += ["-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
        width, height = self.fit.cropped
        num_bytes = height * width * 3
        with ffmpeg.running(command, stdout=subprocess.PIPE) as reader:
            pipe = reader.process.stdout
            assert pipe is not None
            num_frames = 0
            while len(data := _read_fully(pipe, num_bytes)) == num_bytes:
                num_frames += 1
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            status, errors = reader.wait(), reader.error_output()
        name = self.path.name
        if data or MISSING_FRAMES.search(errors):  # ffmpeg would go on without them
            raise ValueError(f"{name} is damaged or cut off after {num_frames} frames; save it again.")
        if status != 0 and "no packets" not in errors:
            raise ValueError(f"{name} cannot be decoded: {printable(reader.last_error(), MAX_ERROR_LENGTH)}.")
        self.concealed_damage = CONCEALED_DAMAGE.search(errors) is not None


def _read_fully(pipe: IO[bytes], num_bytes: int) -> bytes:
    """`num_bytes` bytes from an unbuffered pipe, fewer only at its end."""
    parts = []
    while num_bytes and (part := pipe.read(num_bytes)):
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)
