"""Video files, decoded frame by frame through ffmpeg and fitted to the sizes that the VAE takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wanvae_app.config import WanConfig
from wanvae_app.errors import plural
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.frame_range import ALL_FRAMES, FrameRange
from wanvae_app.formats.video_container import find_container
from wanvae_app.formats.video_decoder import VideoDecoder
from wanvae_app.formats.video_header import too_long
from wanvae_app.formats.video_plan import MAX_FRAMES, VideoPlan, video_plan
from wanvae_app.frame_log import FrameLog

MIN_FPS, MAX_FPS = 0.1, 1000.0
DEFAULT_FPS = 16.0  # of the Wan 2.1 models


@dataclass(frozen=True)
class Video:
    """A clip of 1 + 4 k frames in the sizes that the VAE takes.

    `note` says in sentences how the clip differs from the file; it is empty if it does not.
    """

    frames: FrameLog
    fps: float
    note: str
    start: float | None  # seconds from the file's begin to the first of these frames; None of pictures


def native_fps(config: WanConfig) -> float:
    """Frames per second that the Wan models of this VAE generate. Neither latents nor pictures carry a rate."""
    return 24.0 if config.residual else DEFAULT_FPS


def is_video(path: Path) -> bool:
    """Whether a path is a video, a picture, or a zip or folder of pictures, by its first bytes."""
    return find_container(path) is not None


def describe_video(path: Path, config: WanConfig, frames: FrameRange = ALL_FRAMES) -> str:
    """Sentences for the page about these frames of a video file, from its header alone.

    Raises ValueError and OSError as read_video does.
    """
    plan = video_plan(path, config, frames=frames)
    header = plan.header
    details = [f"{header.size} pixels"]
    kind = "Video"
    if header.source.pictures is not None:
        kind = f"{plural(header.num_frames or 0, 'picture')} as a clip"
    elif header.num_frames == 1 and header.fps is None:
        kind = "Picture"
    if header.fps and plan.seconds:
        details += [f"{header.fps:.4g} frame{'s' * (header.fps != 1)} per second", f"{plan.seconds:.1f} s"]
    done = ", ".join([*plan.changes(), "encoded to a latent"])
    text = f"{kind}, {', '.join(details)}: it will be {done}, then decoded again."
    return " ".join([text, *plan.remarks()])


def read_video(
    path: Path,
    config: WanConfig,
    folder: Path | None,
    max_frames: int = MAX_FRAMES,
    *,
    frames: FrameRange = ALL_FRAMES,
    plan: VideoPlan | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    stopped: StopCheck | None = None,
) -> Video:
    """Read these frames of a video file as a clip of 1 + 4 k frames, scaled down and cropped to the VAE's multiples.

    The frames are kept in a file of `folder`, or in memory if it is None. Sizes are checked before anything is
    decoded. `plan` is what `video_plan` returned for the file, if that was called already. After each frame
    `on_progress` is called with the number of frames so far and the plan's bound. `stopped` is asked ten times a second
    whether to stop, also while ffmpeg is silent.

    Raises:
        ValueError: the file cannot be read, or is too small, too large or too long; the message is one sentence.
        OSError: there is no ffmpeg.
        ReadingStopped: `stopped` returned true; ffmpeg has ended, and nothing is kept.
    """
    plan = plan or video_plan(path, config, max_frames, frames=frames, stopped=stopped)
    log = FrameLog(plan.height, plan.width, folder)
    decoder = VideoDecoder(path, plan, stopped)
    pending: list[np.ndarray] = []
    num_read = 0
    try:
        with contextlib.closing(decoder.frames()) as decoded:  # ends ffmpeg at once after an error here
            for frame in decoded:
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
    notes += plan.remarks()
    if decoder.concealed_damage:
        notes.append("The file is damaged, and parts of its pictures are guessed.")
    fps = plan.header.fps / plan.frames.step if plan.header.fps else native_fps(config)
    return Video(log, min(max(fps, MIN_FPS), MAX_FPS), " ".join(notes), plan.header.start)


def _beyond_plan(path: Path, plan: VideoPlan, max_frames: int) -> ValueError:
    """The ValueError for a video of more frames than its plan states."""
    if plan.num_frames_bound >= max_frames:
        return too_long(path, max_frames)
    return ValueError(
        f"{path.name} is damaged: it holds more frames than the {plan.num_frames_bound} that it lists; save it again."
    )
