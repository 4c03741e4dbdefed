"""Frames to a file of any format in the table of outputs, in a child process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from wanvae_app.alpha import over_checkerboard
from wanvae_app.device import num_cores
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.frame_writer import FrameShape, OnProgress, feed, first_of, video_command
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.outputs import OutputFormat
from wanvae_app.formats.sound import Sound

TIMEOUT = 4 * 3600.0  # seconds for a file: its process may have the lowest priority
CPU_SECONDS = 300  # for a small file
BYTES_PER_CPU_SECOND = 10**6  # of the frames of a larger one; x265 on a slow core takes the most
ADDRESS_SPACE = 2**32  # bytes for small frames
FRAMES_HELD = 96  # frames for which a process has room: encoders look ahead
MAX_THREADS = 8
AAC = ("aac", "-b:a", "256k")


def write_output(
    output: OutputFormat,
    frames: Iterable[np.ndarray],
    path: Path,
    *,
    rate: Fraction | float,
    sound: Sound | None = None,
    num_frames: int | None = None,
    is_background: bool = False,
    is_stopped: StopCheck | None = None,
    on_progress: OnProgress | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Write frames to `path` as they come.

    `frames` are arrays [n, H, W, C]: uint8 for an output of `frame_bits` 8, uint16 for one of 16, as `to_uint16` of
    `model.pixels` makes them. C is 3, or 4 with alpha, which is not premultiplied; formats without alpha show it over a
    checkerboard. H and W are even. `rate` is in frames per second. `sound` goes into videos only. `num_frames`, where
    it is known, limits the file, its process's memory and its computing time. `is_background` gives the process the
    lowest priority, and half of the cores. `on_progress` gets the number of frames that were handed over so far. After
    `timeout` seconds it is given up.

    Raises ValueError if there are no frames, or ones that are too small for the format; OSError, with a sentence, if
    ffmpeg is missing or the file cannot be written; WritingStopped soon after `is_stopped` returned true. No file is
    left then.
    """
    shape, batches = first_of(frames)
    assert shape.value_bytes * 8 == output.frame_bits, f"{output.name} takes uint{output.frame_bits} frames"
    output.check_size(shape.height, shape.width)
    if shape.num_channels == 4 and not output.has_alpha:
        shape, batches = shape._replace(num_channels=3), map(over_checkerboard, batches)
    program = "ffmpeg"
    if output.is_video:
        arguments = output.video_with_alpha if shape.num_channels == 4 else output.video
        seconds = None if num_frames is None else num_frames / float(rate)
        sound_arguments = () if sound is None else _sound_arguments(output, sound, seconds)
        threads = ("-threads", str(_num_threads())) if is_background else ()
        command = video_command(shape, rate, (*threads, *arguments), path, sound_arguments)
    else:
        program, command = "the server", _pictures_command(output, shape, path)
    limits = None if num_frames is None else _limits(output, shape, num_frames, is_background)
    feed(
        command, batches, path, program=program,
        limits=limits, timeout=timeout, is_stopped=is_stopped, on_progress=on_progress,
    )  # fmt: skip


def write_with_sound(
    output: OutputFormat,
    frames: Callable[[], Iterator[np.ndarray]],
    path: Path,
    *,
    sound: Sound | None,
    **options: Any,
) -> str:
    """Write a file as `write_output` does, whose other options `options` are.

    If that fails with the sound, which stems from a visitor's file, write it without. `frames` makes the frames from
    the first on. Return "", or in a sentence why the file has no sound. Raises as `write_output` does.
    """
    problem = ""
    if sound is not None and output.is_video:
        try:
            write_output(output, frames(), path, sound=sound, **options)
            return ""
        except OSError as error:
            problem = f"The file has no sound: {error}."
    write_output(output, frames(), path, **options)
    return problem


def _sound_arguments(output: OutputFormat, sound: Sound, seconds: float | None) -> tuple[str, ...]:
    """ffmpeg's arguments that add sound: copied if the container can carry it, else as AAC.

    Times are copied: sound that begins later than the pictures stays later.
    """
    codec: tuple[str, ...] = ("copy",) if sound.codec in output.sound else AAC
    return ("-copyts", *sound.input_arguments(seconds), "-map", "0:v:0", "-map", "1:a:0", "-c:a", *codec)


def _pictures_command(output: OutputFormat, shape: FrameShape, path: Path) -> list[str]:
    module = "wanvae_app.formats.picture_archive"
    return [sys.executable, "-m", module, output.pictures, *map(str, shape), str(path)]


def _limits(output: OutputFormat, shape: FrameShape, num_frames: int, is_background: bool) -> Limits:
    height, width, num_channels, _ = shape
    return Limits(
        cpu_seconds=CPU_SECONDS + num_frames * shape.num_bytes // BYTES_PER_CPU_SECOND,
        memory_bytes=ADDRESS_SPACE + FRAMES_HELD * shape.num_bytes,
        written_bytes=output.num_bytes_bound(num_frames, height, width, num_channels),
        is_background=is_background,
    )


def _num_threads() -> int:
    """Threads of an encoder in the background: half of the cores stay free for decoding."""
    return max(1, min(MAX_THREADS, num_cores() // 2))
