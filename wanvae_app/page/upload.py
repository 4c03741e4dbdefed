"""From an uploaded file to a run, whose input the readers of jobs/ then read."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.errors import plural
from wanvae_app.formats.latent_origin import Misfit, find_misfit
from wanvae_app.formats.latents import (
    ScalingGuess,
    guess_scaling,
    latent_shape,
    read_clip,
    stored_scaling,
    to_raw,
)
from wanvae_app.formats.video import describe_video, is_video, read_video
from wanvae_app.formats.video_plan import VideoPlan, video_plan
from wanvae_app.jobs.job import JobKind
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.unread_input import InputPlan, ReadInput
from wanvae_app.jobs.vae_cache import VaeCache
from wanvae_app.page.entry import RunInput
from wanvae_app.page.vae_advice import advising

SCALINGS = ("Auto", "Normalised", "Raw")
MAX_CHUNK = 16  # latent frames; more only takes memory
PROGRESS_INTERVAL = 0.1  # seconds between two sentences about how far reading is
HASH_BYTES = 2**22  # that are hashed at a time


def make_run(
    jobs: JobService, path: Path, *, parallel: bool, chunk: float, scaling: str, owner: str, vae: str = ""
) -> tuple[JobState, RunInput]:
    """Make a run for the latent or video in `path`, ready to be submitted. Only the file's first bytes are read here.

    `chunk` is a whole number from 1 to MAX_CHUNK, `scaling` one of SCALINGS; a video ignores the scaling. `vae` is a
    name as `VaeCache.find` takes it. The RunInput is filled in when the file is read. Raises ValueError, in one
    sentence, for an argument that cannot be used.
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
    if not path.is_file():
        raise ValueError("The uploaded file is no longer on the server; upload it again.")
    run_input = RunInput("")
    unread: UploadedVideo | UploadedLatent
    if is_video(path):
        kind, unread = JobKind.ROUNDTRIP, UploadedVideo(path, jobs.vaes[vae].config, run_input)
    else:
        kind, unread = JobKind.DECODE, UploadedLatent(path, jobs.vaes, vae, run_input, scaling)
    run = jobs.new_unread_run(unread, kind, chunk=int(chunk), parallel=parallel, owner=owner, vae=vae)
    return run, run_input


class UploadedLatent:
    """A file with a latent: an UnreadInput. Reading fills in `run_input`."""

    def __init__(self, path: Path, vaes: VaeCache, vae: str, run_input: RunInput, scaling: str) -> None:
        self.path = path
        self.vaes = vaes
        self.vae = vae  # the name of the one that decodes it
        self.config = vaes[vae].config
        self.run_input = run_input
        self.scaling = scaling  # one of SCALINGS
        self.name = path.name

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        with advising(self.path, self.vaes, self.vae):
            shape = LatentShape(*latent_shape(self.path, self.config)[1:])
        num_bytes = 4 * math.prod(shape)  # in float32
        return InputPlan(
            shape, 0, num_bytes, reading_bytes=num_bytes
        )  # as it is scaled, and as it is in the file

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        on_progress("Reading the latent.")
        z, order = read_clip(self.path, self.config)
        chosen = choose_scaling(self.path, z, self.config, self.scaling)
        self.run_input.digest = f"{file_digest(self.path, stopped)} {chosen.scaling}"
        self.run_input.scaling, reason, self.run_input.why = chosen
        self.run_input.note = f"{reason} {order}".rstrip()
        self.run_input.misfit = find_misfit(self.path, z, self.config)
        return ReadInput(to_raw(z, self.config, chosen.scaling), None, native_fps(self.config))


class UploadedVideo:
    """A video file: an UnreadInput. Reading fills in `run_input`."""

    def __init__(self, path: Path, config: WanConfig, run_input: RunInput) -> None:
        self.path = path
        self.config = config
        self.run_input = run_input
        self.name = path.name
        self._plan: VideoPlan | None = None

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        found, config = video_plan(self.path, self.config, stopped=stopped), self.config
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

        self.run_input.digest = file_digest(self.path, stopped)
        video = read_video(
            self.path, self.config, folder, plan=self._plan, on_progress=tell_frames, stopped=stopped
        )
        self.run_input.note = video.note
        return ReadInput(None, video.frames, video.fps)


class Description(NamedTuple):
    """What an upload is, in a line for the page; what is behind it, if there is more; whether it fits the VAE."""

    text: str
    why: str = ""
    misfit: Misfit = Misfit()


def describe_upload(path: Path, config: WanConfig) -> Description:
    """Say what an upload is. Raises ValueError and OSError for what cannot be run."""
    if is_video(path):
        return Description(describe_video(path, config))
    z, order = read_clip(path, config)
    _, num_channels, num_latents, height, width = z.shape
    factor = config.output_factor
    chosen = choose_scaling(path, z, config, "Auto")
    frames = plural(config.num_frames(num_latents), "frame")
    return Description(
        f"Latent, {num_channels} x {num_latents} x {height} x {width}: {frames} of {width * factor} x "
        f"{height * factor}. {chosen.reason} {order}".rstrip(),
        chosen.why,
        find_misfit(path, z, config),
    )


def choose_scaling(path: Path, z: Tensor, config: WanConfig, wanted: str) -> ScalingGuess:
    """Return the scaling of latent `z`, and how it was found.

    `wanted` is one of SCALINGS. "Auto" takes what the file says, and otherwise guesses from the values.
    """
    if wanted == "Auto":
        if stored := stored_scaling(path):
            return ScalingGuess(stored, f"Taken as {stored}, as the file says.")
        return guess_scaling(z, config)
    return ScalingGuess(wanted.lower(), f"Taken as {wanted.lower()}, as you chose.")


def native_fps(config: WanConfig) -> float:
    """Frames per second that the Wan models of this VAE generate. A latent does not carry a rate."""
    return 24.0 if config.residual else 16.0


def file_digest(path: Path, stopped: Callable[[], bool] = lambda: False) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises InterruptedError once `stopped()`."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(HASH_BYTES):
            if stopped():
                raise InterruptedError(f"reading {path.name} was stopped")
            digest.update(data)
    return digest.hexdigest()
