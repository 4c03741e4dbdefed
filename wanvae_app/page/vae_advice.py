"""Which of the app's VAEs fits an upload that the chosen one cannot take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanvae_app.formats.latents import clip_labels
from wanvae_app.jobs.vae_cache import VaeCache


@contextmanager
def advising(path: Path, vaes: VaeCache, chosen: str) -> Iterator[None]:
    """Let the refusal of a latent name the VAEs that would take it, if the app has some.

    Within, reading the latent in `path` for the VAE `chosen` may raise ValueError. It is raised again, in one sentence.
    """
    try:
        yield
    except ValueError as error:
        num_channels = vaes[chosen].config.z_dim
        fitting = _fitting(path, vaes, num_channels)
        if not fitting:
            raise
        needed = vaes[fitting[0]].config.z_dim
        raise ValueError(
            f"{path.name} has {needed} latent channels where {chosen} takes {num_channels}: choose "
            f"{' or '.join(fitting)} as the VAE."
        ) from error


def _fitting(path: Path, vaes: VaeCache, num_channels: int) -> list[str]:
    """The VAEs of another number of latent channels that would take the latent, by its header; all of one number."""
    for config in {vaes[name].config.z_dim: vaes[name].config for name in vaes.names}.values():
        if config.z_dim == num_channels:
            continue
        try:
            clip_labels(path, config)
        except (ValueError, OSError):
            continue
        return [name for name in vaes.names if vaes[name].config.z_dim == config.z_dim]
    return []
