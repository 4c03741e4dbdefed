"""Videos in files: read piece by piece through ffmpeg, cropped to what the VAE takes; and MP4 out."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np

from wanvae_app.config import WanConfig
from wanvae_app.frames import FrameLog

MAX_FRAMES = 1001
MAX_PIXELS = 1920 * 1088  # larger pictures are scaled down
MAX_SIDE = 8192  # larger ones are not opened
PIECE = 8  # frames at a time
PATIENCE = 900.0  # seconds for the decoding of a whole file


@dataclass(frozen=True)
class Video:
    """A clip as the VAE takes it; `fitted` says in a sentence what was changed for that, empty if nothing."""

    frames: FrameLog
    fps: float
    fitted: str


@dataclass(frozen=True)
class _Probe:
    width: int  # as shown, after rotation
    height: int
    fps: float
    seconds: float | None


def is_video(path: Path) -> bool:
    """Whether the file's content, whatever its name, is MP4, QuickTime, WebM, Matroska, GIF or AVI."""
    return _container(path) is not None


def read_video(path: Path, config: WanConfig, folder: Path, max_frames: int = MAX_FRAMES) -> Video:
    """The clip in a video file, cropped (larger ones scaled, too) to the VAE's multiples, 1 + 4 k frames.

    The frames go into a log in `folder`, so memory stays flat. Raises ValueError, in one sentence, for what
    cannot be read, is too small, too large or too long; sizes are looked at before anything is decoded.
    """
    probe = _look(path)
    factor = config.spatial_factor
    if min(probe.width, probe.height) < factor:
        raise ValueError(
            f"{path.name} is {probe.width}x{probe.height} pixels; this VAE needs at least {factor}x{factor}."
        )
    if max(probe.width, probe.height) > MAX_SIDE:
        raise ValueError(
            f"{path.name} is {probe.width}x{probe.height} pixels; at most {MAX_SIDE} on a side are taken."
        )
    too_long = f"{path.name} is too long: at most {max_frames} frames are taken; cut it shorter."
    if probe.seconds is not None and probe.seconds * probe.fps > max_frames + probe.fps:
        raise ValueError(too_long)
    scaled = _scaled(probe.width, probe.height, factor)
    width, height = (side // factor * factor for side in scaled)
    filters = ([f"scale={scaled[0]}:{scaled[1]}"] if scaled != (probe.width, probe.height) else []) + [
        f"crop={width}:{height}"
    ]
    log = FrameLog(height, width, folder)
    step, held, num_read = config.temporal_factor, [], 0
    try:
        for frame in _decode(path, filters, height, width, max_frames + 1):
            num_read += 1
            if num_read > max_frames:
                raise ValueError(too_long)
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
    changes = []
    if scaled != (probe.width, probe.height):
        changes.append(f"scaled from {probe.width}x{probe.height} to {scaled[0]}x{scaled[1]}")
    if scaled != (width, height):
        changes.append(f"cropped from {scaled[0]}x{scaled[1]} to {width}x{height}")
    if num_read != len(log):
        changes.append(f"cut from {num_read} to {len(log)} frames")
    fitted = f"The video was {' and '.join(changes)}, as the VAE needs." if changes else ""
    return Video(log, probe.fps, fitted)


def write_mp4(frames: FrameLog, path: Path, fps: float) -> None:
    """Write all frames as H.264, 4:2:0 with BT.709 colours, near to lossless, playable while it loads.

    Raises OSError or RuntimeError, with a sentence, if ffmpeg is missing or the disk is full.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{frames.width}x{frames.height}"]
    command += ["-framerate", f"{fps:g}", "-i", "pipe:0"]
    # 4:2:0 has half as many colour samples each way, so sides must be even; ours are multiples of 8.
    command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "14", "-pix_fmt", "yuv420p"]
    command += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    command += ["-movflags", "+faststart", "-f", "mp4", str(path)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        assert process.stdin is not None
        try:
            # ffmpeg ends early when it cannot write; its own words say why.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                for start in range(0, len(frames), PIECE):
                    process.stdin.write(frames.read(start, min(start + PIECE, len(frames))).data)
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            path.unlink(missing_ok=True)
            raise OSError(f"ffmpeg could not write {path.name}: {_last_line(errors)}")


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


def _input(path: Path) -> list[str]:
    container = _container(path)
    if container is None:
        raise ValueError(f"{path.name} is not a video (.mp4, .mov, .webm, .gif) by its content.")
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-hide_banner",
        "-nostdin",
        "-protocol_whitelist",
        "file,pipe",
    ]
    return [*command, "-f", container, "-i", f"file:{path.resolve()}"]


def _look(path: Path) -> _Probe:
    """Size, rate and length as the file's header states them; nothing is decoded."""
    try:
        found = subprocess.run(_input(path), capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path.name} cannot be read: ffmpeg found no end in it.") from error
    text = found.stderr.decode(errors="replace")
    stream = re.search(r"Stream #\d+:\d+.*?: Video: .*?, (\d+)x(\d+)\b(.*)", text)
    if stream is None:
        if "Audio:" in text:
            raise ValueError(f"{path.name} has sound but no pictures; give a video.")
        raise ValueError(f"{path.name} is damaged or cut off: no video was found in it.")
    width, height = int(stream[1]), int(stream[2])
    rotation = re.search(r"rotation of (-?[\d.]+) degrees", text[stream.start() :])
    if rotation and round(abs(float(rotation[1])) / 90) % 2:
        width, height = height, width
    rate = re.search(r"([\d.]+)(k?) fps", stream[3]) or re.search(r"([\d.]+)(k?) tbr", stream[3])
    fps = float(rate[1]) * (1000 if rate[2] else 1) if rate else 16.0
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
    seconds = int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None
    return _Probe(width, height, min(max(fps, 1.0), 120.0), seconds)


def _scaled(width: int, height: int, factor: int) -> tuple[int, int]:
    """The size after scaling down to MAX_PIXELS, if that is needed at all; never under one latent row."""
    if width * height <= MAX_PIXELS:
        return width, height
    shrink = (MAX_PIXELS / (width * height)) ** 0.5
    return max(factor, round(width * shrink)), max(factor, round(height * shrink))


def _decode(path: Path, filters: list[str], height: int, width: int, max_frames: int) -> Iterator[np.ndarray]:
    """The frames of a file, uint8 [H, W, 3]; each once, however unevenly they are timed."""
    command = [*_input(path), "-map", "0:v:0", "-frames:v", str(max_frames), "-fps_mode", "passthrough"]
    command += ["-vf", ",".join(filters), "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
    command += ["-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    size = height * width * 3
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0)
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            while len(data := _read(process.stdout, size)) == size:
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            if process.wait() != 0 or data:
                raise ValueError(f"{path.name} cannot be decoded: {_last_line(errors)}.")
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _read(pipe: IO[bytes], size: int) -> bytes:
    """`size` bytes, fewer only at the end."""
    parts = []
    while size and (part := pipe.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read()[-4000:].decode(errors="replace").strip().splitlines()
    return re.sub(r"^\[.*?\] ", "", lines[-1])[:300] if lines else "it ended without a word"
