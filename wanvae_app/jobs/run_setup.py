"""What a run is made of: its job, its logs and its input, as far as they are known."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch

from wanvae_app.config import WanConfig
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import Job, JobKind, Phase
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.latent_shape import LatentShape, shape_of_encoded, shape_of_latent
from wanvae_app.jobs.unread_input import ReadInput
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.shard import Shard


def new_state(
    kind: JobKind,
    folder: Path,
    config: WanConfig,
    *,
    vae: str,
    chunk: int,
    parallel: bool,
    owner: str,
    name: str,
) -> JobState:
    """Make a run whose size is not known yet. `config` is that of the VAE called `vae`; `chunk` is in latent frames.

    Raises ValueError if the VAE lacks what such a run needs.
    """
    if chunk < 1:
        raise ValueError(f"{chunk} latent frames per chunk is impossible; give 1 or more.")
    shape = LatentShape(config.z_dim, 0, 0, 0)
    job = Job(id=secrets.token_urlsafe(16), kind=kind, shape=shape, chunk=chunk, parallel=parallel, vae=vae)
    check_halves(job.phases, vae, config)
    return JobState(job, folder=folder, frames=FrameLog(), num_frames=0, owner=owner, name=name)


def check_halves(phases: Collection[Phase], vae: str, config: WanConfig) -> None:
    """Raise ValueError, with what the VAE can do, if it lacks the encoder or decoder that these phases need."""
    if (Phase.ENCODE in phases and not config.has_encoder) or (
        Phase.DECODE in phases and not config.has_decoder
    ):
        raise ValueError(f"{vae} {config.lack}.")


def set_shape(run: JobState, shape: LatentShape, config: WanConfig, num_ranks: int) -> None:
    """Give a run the shape of its latent, on `num_ranks` ranks. It may be given again before the input is."""
    shard = Shard.plan(shape.height, shape.width, num_ranks if run.job.parallel else 1, 0)
    run.num_ranks = shard.num_ranks if shard is not None else 1
    run.num_frames = 0 if run.job.kind == JobKind.ENCODE else config.num_frames(shape.num_latents)
    run.size = shape.height * config.output_factor, shape.width * config.output_factor
    run.job = replace(run.job, shape=shape)


def set_input(run: JobState, found: ReadInput, folder: Path, vae: WanVAE, num_ranks: int) -> None:
    """Give a run its input. Raises ValueError if this VAE cannot take it."""
    config, latent = vae.config, found.latent
    if found.source is not None:
        shape = shape_of_encoded(found.source, config)
        latent = torch.zeros(1, *shape, dtype=torch.promote_types(vae.dtype, torch.float32))
    else:
        assert latent is not None, "a run needs a latent or a source"
        shape = shape_of_latent(latent, config)
    set_shape(run, shape, config, num_ranks)
    run.job = replace(run.job, chunk=min(run.job.chunk, shape.num_latents))
    run.frames.open(*run.size, folder, config.out_channels)
    run.folder, run.latent, run.source, run.fps = folder, latent, found.source, found.fps
