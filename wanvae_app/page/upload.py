"""From an uploaded file to a run, whose input the readers of jobs/ then read."""

from __future__ import annotations

import hashlib
import math
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wanvae_app.config import WanConfig
from wanvae_app.errors import plural
from wanvae_app.formats.frame_range import ALL_FRAMES, FrameRange
from wanvae_app.formats.latent_file import NO_CHOICE, ClipChoice
from wanvae_app.formats.latent_origin import Misfit, find_misfit
from wanvae_app.formats.latents import clip_labels, latent_shape, read_clip, stored_facts, to_raw
from wanvae_app.formats.sound import Sound, extract_sound
from wanvae_app.formats.video import Video, describe_video, is_video, native_fps, read_video
from wanvae_app.formats.video_plan import VideoPlan, video_plan
from wanvae_app.jobs.job import JobKind
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.unread_input import InputPlan, ReadInput
from wanvae_app.jobs.vae_cache import VaeCache
from wanvae_app.page.entry import RunInput
from wanvae_app.page.latent_readings import SCALINGS, choose_scaling, describe_doubt, describe_part
from wanvae_app.page.picture_clips import is_joined, remove_joined
from wanvae_app.page.vae_advice import advising

MAX_CHUNK = 16  # latent frames; more only takes memory
PROGRESS_INTERVAL = 0.1  # seconds between two sentences about how far reading is
SOUND = "sound.mka"  # in a run's folder
HASH_BYTES = 2**22  # that are hashed at a time


def make_run(
    jobs: JobService,
    path: Path,
    *,
    parallel: bool,
    chunk: float,
    scaling: str,
    owner: str,
    vae: str = "",
    choice: ClipChoice = NO_CHOICE,
    frames: str = "",
) -> tuple[JobState, RunInput]:
    """Make a run for the latent or video in `path`, ready to be submitted. Only the file's first bytes are read here.

    `path` may be a folder of `join_pictures`. `chunk` is a whole number from 1 to MAX_CHUNK, `scaling` one of SCALINGS,
    `choice` one latent of the file; a video ignores these two. `vae` is a name as `VaeCache.find` takes it. `frames`
    says which ones of a video are taken, see `FrameRange.parse`. The RunInput is filled in when the file is read.
    Raises ValueError, in one sentence, for an argument that cannot be used.
    """
    vae = jobs.vaes.find(vae)
    if scaling not in SCALINGS:
        raise ValueError(f"Unknown latent scaling {scaling!r}; choose one of {', '.join(SCALINGS)}.")
    if not 1 <= chunk <= MAX_CHUNK:
        raise ValueError(f"{chunk} latent frames per chunk is impossible; choose 1 to {MAX_CHUNK}.")
    if chunk != int(chunk):
        raise ValueError(
            f"{chunk} latent frames per chunk is impossible; choose a whole number from 1 to {MAX_CHUNK}."
        )
    chosen = FrameRange.parse(frames)
    check_upload(path)
    run_input = RunInput("")
    unread: UploadedVideo | UploadedLatent
    if is_video(path):
        kind, unread = JobKind.ROUNDTRIP, UploadedVideo(path, jobs.vaes[vae].config, run_input, chosen)
    else:
        kind, unread = JobKind.DECODE, UploadedLatent(path, jobs.vaes, vae, run_input, scaling, choice)
    run = jobs.new_unread_run(unread, kind, chunk=int(chunk), parallel=parallel, owner=owner, vae=vae)
    return run, run_input


def check_upload(path: Path) -> None:
    """Raise ValueError, in one sentence, unless this is a file, or a folder of `join_pictures`."""
    if not path.is_file() and not is_joined(path):
        raise ValueError("The uploaded file is no longer on the server; upload it again.")


class UploadedLatent:
    """A file with a latent: an UnreadInput. Reading fills in `run_input`."""

    def __init__(
        self, path: Path, vaes: VaeCache, vae: str, run_input: RunInput, scaling: str, choice: ClipChoice
    ) -> None:
        self.path = path
        self.vaes = vaes
        self.vae = vae  # the name of the one that decodes it
        self.config = vaes[vae].config
        self.run_input = run_input
        self.scaling = scaling  # one of SCALINGS
        self.choice = choice
        self.name = f"{path.stem} {choice.part.replace('/', '-')}{path.suffix}" if choice.part else path.name

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        with advising(self.path, self.vaes, self.vae):
            shape = LatentShape(*latent_shape(self.path, self.config, self.choice)[1:])
        num_bytes = 4 * math.prod(shape)  # in float32
        return InputPlan(
            shape, 0, num_bytes, reading_bytes=num_bytes
        )  # as it is scaled, and as it is in the file

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        on_progress("Reading the latent.")
        labels = clip_labels(self.path, self.config, self.choice.order)
        found = read_clip(self.path, self.config, self.choice)
        z, chosen = found.values, choose_scaling(self.path, found.values, self.config, self.scaling)
        digest = file_digest(self.path, stopped)
        self.run_input.digest = " ".join(filter(None, (digest, chosen.scaling, *self.choice)))
        self.run_input.scaling, reason, self.run_input.why = chosen
        sentences = reason, found.order, describe_part(labels, self.choice.part)
        self.run_input.note = " ".join(filter(None, sentences))
        self.run_input.doubt = describe_doubt(chosen, found.is_order_certain)
        self.run_input.misfit = find_misfit(self.path, z, self.config)
        fps = stored_facts(self.path).fps or native_fps(self.config)
        return ReadInput(to_raw(z, self.config, chosen.scaling), None, fps)


class UploadedVideo:
    """Frames of a video file, or a folder of `join_pictures`: an UnreadInput. Reading fills in `run_input`.

    The folder is deleted with this object: when it was read, or its run is gone.
    """

    def __init__(
        self, path: Path, config: WanConfig, run_input: RunInput, frames: FrameRange = ALL_FRAMES
    ) -> None:
        self.path = path
        self.config = config
        self.run_input = run_input
        self.frames = frames
        self.name = path.name
        self._plan: VideoPlan | None = None
        if path.is_dir():
            weakref.finalize(self, remove_joined, path)

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        config = self.config
        found = video_plan(self.path, config, frames=self.frames, stopped=stopped)
        self._plan = found
        num_latents = 1 + (found.num_frames_bound - 1) // config.temporal_factor
        height, width = found.height // config.spatial_factor, found.width // config.spatial_factor
        shape = LatentShape(config.z_dim, num_latents, height, width)
        return InputPlan(shape, found.num_bytes_bound, 4 * math.prod(shape), found.num_memory_bytes_bound)

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        told = 0.0

        def tell_frames(num_frames: int, bound: int) -> None:
            nonlocal told
            if time.monotonic() - told >= PROGRESS_INTERVAL:
                told = time.monotonic()
                on_progress(f"Reading {num_frames} of about {plural(bound, 'frame')}.")

        digest = file_digest(self.path, stopped)
        self.run_input.digest = digest if self.frames.is_all else f"{digest} {self.frames}"
        video = read_video(
            self.path,
            self.config,
            folder,
            frames=self.frames,
            plan=self._plan,
            on_progress=tell_frames,
            stopped=stopped,
        )
        self.run_input.note = video.note
        try:
            return ReadInput(None, video.frames, video.fps, self._read_sound(video, folder, stopped))
        except BaseException:
            video.frames.close()
            raise

    def _read_sound(self, video: Video, folder: Path | None, stopped: Callable[[], bool]) -> Sound | None:
        """The sound of the frames that were read; None without a folder for it, and of pictures."""
        if folder is None or video.start is None:
            return None
        seconds = len(video.frames) / video.fps
        try:
            return extract_sound(self.path, folder / SOUND, video.start, seconds, stopped=stopped)
        except ValueError as error:  # the pictures can be coded all the same
            self.run_input.note = f"{video.note} {error}".lstrip()
            return None


class Description(NamedTuple):
    """What an upload is, in a line for the page; what is behind it, if there is more; whether it fits the VAE."""

    text: str
    why: str = ""
    misfit: Misfit = Misfit()


def describe_upload(path: Path, config: WanConfig, frames: str = "") -> Description:
    """Say what an upload is; of a video, these frames. Raises ValueError and OSError for what cannot be run."""
    check_upload(path)
    if is_video(path):
        return Description(describe_video(path, config, FrameRange.parse(frames)))
    labels = clip_labels(path, config)
    num_clips = len(labels.clips)
    found = read_clip(path, config, ClipChoice(labels.clips[0] if num_clips > 1 else ""))
    z = found.values
    _, num_channels, num_latents, height, width = z.shape
    factor = config.output_factor
    chosen = choose_scaling(path, z, config, "Auto")
    frames_made = plural(config.num_frames(num_latents), "frame")
    sentences = (
        f"Latent, {num_channels} x {num_latents} x {height} x {width}: {frames_made} "
        f"of {width * factor} x {height * factor}.",
        chosen.reason,
        found.order,
        f"The first of {num_clips} clips, each of which becomes a run."
        if num_clips > 1
        else describe_part(labels, ""),
    )
    return Description(" ".join(filter(None, sentences)), chosen.why, find_misfit(path, z, config))


def file_digest(path: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """SHA-256 of a file, or of all files in a folder, in hexadecimal. Raises InterruptedError once `stopped()`."""
    digest = hashlib.sha256()
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        with each.open("rb") as file:
            while data := file.read(HASH_BYTES):
                if stopped():
                    raise InterruptedError(f"reading {path.name} was stopped")
                digest.update(data)
    return digest.hexdigest()
