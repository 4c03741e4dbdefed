"""Followers, the ranks other than 0: they get ready like rank 0, then run the jobs that it posts."""

from __future__ import annotations

from wanvae_app.codec import warm_up
from wanvae_app.jobs.job import Job
from wanvae_app.jobs.vae_cache import VaeCache
from wanvae_app.jobs.vae_loading import tick_in_layers
from wanvae_app.jobs.worker import run_job
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group


def follow(group: Group, vaes: VaeCache | WanVAE) -> None:
    """Run job after job until rank 0 posts the end. A single VAE stands for a cache of it.

    Raises GroupLost if a rank has gone.
    """
    if isinstance(vaes, WanVAE):
        vaes = VaeCache.of(vaes)
    get_ready(group, vaes.first)
    while "job" in (command := group.next_command()):
        run_job(group, vaes, Job.from_json(command["job"]))


def get_ready(group: Group, vae: WanVAE) -> None:
    """Warm up this rank, and wait until all ranks have done so. All ranks call it once, before their first job.

    One rank may have to compile for a minute while the others need not. A job that they began meanwhile would fail:
    they would miss the signs of life that a rank gives from the beginning of a job on. Raises GroupLost if a rank has
    gone.
    """
    tick_in_layers(group, vae)
    warm_up(vae)
    group.agree([0.0])
