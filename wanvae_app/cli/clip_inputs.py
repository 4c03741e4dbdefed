"""Inputs of `decode` and `encode`, read as the page reads them: by processes with limits, and refused in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from wanvae_app.cli.clip_options import AUTO
from wanvae_app.config import WanConfig
from wanvae_app.formats.latent_origin import find_misfit
from wanvae_app.formats.latents import NOT_CERTAIN, guess_scaling, read_clip, stored_facts
from wanvae_app.formats.video import is_video, read_video
from wanvae_app.formats.video_plan import video_plan
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.budget import amount, free_disk

FRAMES_PER_READ = 4


@dataclass(frozen=True)
class LatentInput:
    """A latent [1 C T H W] and what is to be said of it, in sentences."""

    latent: Tensor
    scaling: str
    fps: float | None  # that the file states
    notes: list[str]

    def close(self) -> None:
        """Free nothing: memory goes with the object."""


@dataclass(frozen=True)
class VideoInput:
    """A video's frames in a file of their own, and what is to be said of it, in sentences."""

    log: FrameLog
    fps: float
    notes: list[str]

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 [N H W 3], a few at a time."""
        for start in range(0, len(self.log), FRAMES_PER_READ):
            yield self.log.read(start, min(start + FRAMES_PER_READ, len(self.log)))

    def close(self) -> None:
        """Delete the frames."""
        self.log.close()


def read_latent_input(path: Path, config: WanConfig, wanted: str) -> LatentInput:
    """Read a latent; `wanted` is its scaling, or "auto" for what the file says, else what its values look like.

    Raises ValueError or OSError, with a sentence, for a file that holds no latent of this VAE.
    """
    if is_video(path):
        raise ValueError(f"{path.name} is a video: encode takes it.")
    latent, order = read_clip(path, config)
    notes = [order] if order else []
    guess, stored = guess_scaling(latent, config), stored_facts(path)
    is_certain = NOT_CERTAIN not in guess.reason
    scaling = (stored.scaling or guess.scaling) if wanted == AUTO else wanted
    if wanted == AUTO and not stored.scaling and not is_certain:
        other = "raw" if scaling == "normalised" else "normalised"
        notes.append(
            f"Decoded as {scaling}, which is not certain: give --scaling {other} if the colours look wrong."
        )
    elif guess.scaling != scaling and is_certain:
        notes.append(f"Decoded as {scaling}, but it looks {guess.scaling}.")
    if misfit := find_misfit(path, latent, config).sentence:
        notes.append(misfit)
    return LatentInput(latent, scaling, stored.fps, notes)


def read_video_input(path: Path, config: WanConfig, folder: Path) -> VideoInput:
    """Read a video; its frames go into a file of `folder`.

    Raises ValueError or OSError, with a sentence, for a file that cannot be encoded, or whose frames the disk has no
    room for.
    """
    if not is_video(path):
        raise ValueError(f"{path.name} is no video, by its content.")
    plan = video_plan(path, config)
    if plan.num_bytes_bound > (free := free_disk(folder)):
        raise OSError(
            f"{path.name} needs {amount(plan.num_bytes_bound)} of disk for its frames, and {amount(free)} are free."
        )
    video = read_video(path, config, folder, plan=plan)
    return VideoInput(video.frames, video.fps, [video.note] if video.note else [])
