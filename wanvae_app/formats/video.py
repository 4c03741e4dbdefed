"""Video files, decoded frame by frame through ffmpeg and fitted to the sizes that the VAE takes."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wanvae_app.config import WanConfig
from wanvae_app.device import num_cores
from wanvae_app.errors import plural
from wanvae_app.formats import ffmpeg
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.untrusted_text import MAX_ERROR_LENGTH, printable
from wanvae_app.formats.video_header import MAX_INPUT_PIXELS, find_container, input_command, too_long
from wanvae_app.formats.video_plan import MAX_FRAMES, VideoPlan, video_plan
from wanvae_app.frame_log import FrameLog

MIN_FPS, MAX_FPS = 0.1, 1000.0
DEFAULT_FPS = 16.0  # of a file that states no times
MAX_THREADS = 8  # of ffmpeg's decoder; each keeps pictures of its own
CPU_SECONDS = 2 * int(ffmpeg.FILE_TIMEOUT)
ADDRESS_SPACE = 2**31  # bytes of ffmpeg's code and its threads' stacks and heaps, besides pictures
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


def is_video(path: Path) -> bool:
    """Whether the file is MP4, QuickTime, WebM, Matroska, GIF or AVI, by its first bytes."""
    return find_container(path) is not None


def describe_video(path: Path, config: WanConfig) -> str:
    """A sentence for the page about a video file, from its header alone.

    Raises ValueError and OSError as read_video does.
    """
    plan = video_plan(path, config)
    header = plan.header
    details = [f"{header.size} pixels"]
    if header.fps and header.seconds:
        details += [f"{header.fps:.4g} frame{'s' * (header.fps != 1)} per second", f"{header.seconds:.1f} s"]
    done = ", ".join([*plan.changes(), "encoded to a latent"])
    return f"Video, {', '.join(details)}: it will be {done}, then decoded again."


def read_video(
    path: Path,
    config: WanConfig,
    folder: Path | None,
    max_frames: int = MAX_FRAMES,
    *,
    plan: VideoPlan | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    stopped: StopCheck | None = None,
) -> Video:
    """Read a video file as a clip of 1 + 4 k frames, scaled down and cropped to the VAE's multiples.

    The frames are kept in a file of `folder`, or in memory if it is None. Sizes are checked before anything is
    decoded. `plan` is what `video_plan` returned for the file, if that was called already. After each frame
    `on_progress` is called with the number of frames so far and the plan's bound. `stopped` is asked ten times a second
    whether to stop, also while ffmpeg is silent.

    Raises:
        ValueError: the file cannot be read, or is too small, too large or too long; the message is one sentence.
        OSError: there is no ffmpeg.
        ReadingStopped: `stopped` returned true; ffmpeg has ended, and nothing is kept.
    """
    plan = plan or video_plan(path, config, max_frames, stopped=stopped)
    log = FrameLog(plan.height, plan.width, folder)
    decoder = _Decoder(path, plan, stopped)
    pending: list[np.ndarray] = []
    num_read = 0
    try:
        with contextlib.closing(decoder.frames()) as frames:  # ends ffmpeg at once after an error here
            for frame in frames:
                num_read += 1
                if num_read > plan.num_frames_bound:
                    raise _beyond_plan(path, plan, max_frames)
                pending.append(frame)
                if len(pending) == (config.temporal_factor if len(log) else 1):
                    log.append(np.stack(pending))  # 1 + 4 k frames so far
                    pending.clear()
                if on_progress is not None:
                    on_progress(num_read, plan.num_frames_bound)
        if not len(log):
            raise ValueError(f"{path.name} has no frames; give a video with at least one.")
    except BaseException:
        log.close()
        raise
    log.finish()
    changes = plan.changes()
    if num_read != len(log):
        changes.append(f"cut from {num_read} to {plural(len(log), 'frame')}")
    notes = [f"The video was {' and '.join(changes)}, as the VAE needs."] if changes else []
    if decoder.concealed_damage:
        notes.append("The file is damaged, and parts of its pictures are guessed.")
    fps = plan.header.fps or DEFAULT_FPS
    return Video(log, min(max(fps, MIN_FPS), MAX_FPS), " ".join(notes))


def _beyond_plan(path: Path, plan: VideoPlan, max_frames: int) -> ValueError:
    """The ValueError for a video of more frames than its plan states."""
    if plan.num_frames_bound >= max_frames:
        return too_long(path, max_frames)
    return ValueError(
        f"{path.name} is damaged: it holds more frames than the {plan.num_frames_bound} that it lists; save it again."
    )


class _Decoder:
    """Decodes a file's frames, at most one more than its plan states. `concealed_damage` is valid after the last."""

    def __init__(self, path: Path, plan: VideoPlan, stopped: StopCheck | None) -> None:
        self.path = path
        self.plan = plan
        self.stopped = stopped
        self.concealed_damage = False

    def frames(self) -> Generator[np.ndarray]:
        """The frames, uint8 [H, W, 3], each once, however unevenly they are timed.

        Raises ValueError, with one sentence, if frames are missing or cannot be decoded; ReadingStopped.
        """
        width, height = self.plan.cropped
        num_bytes = height * width * 3
        with ffmpeg.running(self._command(), stdout=subprocess.PIPE, limits=self._limits()) as reader:
            num_frames = 0
            while len(data := reader.read(num_bytes, self.stopped)) == num_bytes:
                num_frames += 1
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            status, errors = reader.wait(), reader.error_output()
        if reader.is_hung:
            raise ValueError(
                f"{self.path.name} cannot be decoded: ffmpeg takes too long after {plural(num_frames, 'frame')}."
            )
        name = self.path.name
        if data or MISSING_FRAMES.search(errors):  # ffmpeg would go on without them
            raise ValueError(
                f"{name} is damaged or cut off after {plural(num_frames, 'frame')}; save it again."
            )
        if status != 0 and "no packets" not in errors:
            raise ValueError(f"{name} cannot be decoded: {printable(reader.last_error(), MAX_ERROR_LENGTH)}.")
        self.concealed_damage = CONCEALED_DAMAGE.search(errors) is not None

    def _command(self) -> list[str]:
        """ffmpeg's command line, which writes the frames to its output."""
        threads = ("-threads", str(min(num_cores(), MAX_THREADS)), "-filter_threads", "4")
        # A picture may turn out larger than the header says.
        command = input_command(self.path, *threads, "-max_pixels", str(MAX_INPUT_PIXELS))
        command += ["-map", "0:v:0", "-frames:v", str(self.plan.num_frames_bound + 1)]
        command += ["-fps_mode", "passthrough", "-vf", self._filters()]
        command += ["-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
        return [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]

    def _filters(self) -> str:
        """The plan's steps as ffmpeg's filters. An unchanged size is given too, as sizes may change within a file."""
        scaled, cropped = self.plan.scaled, self.plan.cropped
        return f"scale={scaled.width}:{scaled.height},crop={cropped.width}:{cropped.height}"

    def _limits(self) -> Limits:
        return Limits(CPU_SECONDS, ADDRESS_SPACE + self.plan.num_memory_bytes_bound)
