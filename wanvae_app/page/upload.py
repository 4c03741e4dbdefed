"""From an uploaded file to a run. What can be refused is refused here, before the run is queued."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.formats.latents import guess_scaling, read_latent, stored_scaling, to_raw
from wanvae_app.formats.video import describe_video, is_video, read_video
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.page.entry import RunInput

SCALINGS = ("Auto", "Normalised", "Raw")
MAX_CHUNK = 16  # latent frames; more only takes memory


def make_run(
    jobs: JobService, path: Path, *, parallel: bool, chunk: int, scaling: str, owner: str
) -> tuple[JobState, RunInput]:
    """Make a run for the latent or video in `path`, ready to be submitted.

    `chunk` is 1 to MAX_CHUNK latent frames, `scaling` one of SCALINGS; a video ignores the scaling. Raises ValueError,
    in one sentence, for a file or an argument that cannot be used; OSError if ffmpeg or disk space is missing.
    """
    if scaling not in SCALINGS:
        raise ValueError(f"Unknown latent scaling {scaling!r}; choose one of {', '.join(SCALINGS)}.")
    if not 1 <= chunk <= MAX_CHUNK:
        raise ValueError(f"{chunk} latent frames per chunk is impossible; choose 1 to {MAX_CHUNK}.")
    if not path.is_file():
        raise ValueError("The uploaded file is no longer on the server; upload it again.")
    config = jobs.vae.config
    if not is_video(path):
        z = read_latent(path, config)
        scaling, reason = choose_scaling(path, z, config, scaling)
        run_input = RunInput(f"{file_digest(path)} {scaling}", scaling, reason)
        run = jobs.new_run(
            latent=to_raw(z, config, scaling),
            chunk=chunk,
            parallel=parallel,
            owner=owner,
            name=path.name,
            fps=native_fps(config),
        )
        return run, run_input
    folder = jobs.store.folder_or_none()
    try:
        video = read_video(path, config, folder)
        run_input = RunInput(file_digest(path), note=video.note)
        run = jobs.new_run(
            source=video.frames,
            fps=video.fps,
            chunk=chunk,
            parallel=parallel,
            owner=owner,
            name=path.name,
            folder=folder,
        )
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return run, run_input


def describe_upload(path: Path, config: WanConfig) -> str:
    """Say in a line for the page what an upload is. Raises ValueError and OSError as `make_run` does."""
    if is_video(path):
        return describe_video(path, config)
    z = read_latent(path, config)
    _, num_channels, num_latents, height, width = z.shape
    factor = config.output_factor
    _, reason = choose_scaling(path, z, config, "Auto")
    return (
        f"Latent, {num_channels} x {num_latents} x {height} x {width}: {config.num_frames(num_latents)} frames "
        f"of {width * factor} x {height * factor}. {reason}"
    )


def choose_scaling(path: Path, z: Tensor, config: WanConfig, wanted: str) -> tuple[str, str]:
    """Return the scaling of latent `z`, "normalised" or "raw", and a sentence that says why.

    `wanted` is one of SCALINGS. "Auto" takes what the file says, and otherwise guesses from the values.
    """
    if wanted == "Auto":
        if stored := stored_scaling(path):
            return stored, f"Taken as {stored}, as the file says."
        return guess_scaling(z, config)
    return wanted.lower(), f"Taken as {wanted.lower()}, as you chose."


def native_fps(config: WanConfig) -> float:
    """Frames per second that the Wan models of this VAE generate. A latent does not carry a rate."""
    return 24.0 if config.residual else 16.0


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
