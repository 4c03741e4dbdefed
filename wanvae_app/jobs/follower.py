"""Followers, the ranks other than 0: they get ready like rank 0, then run the jobs that it posts."""

from __future__ import annotations

from wanvae_app.codec import warm_up
from wanvae_app.jobs.job import Job
from wanvae_app.jobs.worker import run_job
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group


def follow(group: Group, vae: WanVAE) -> None:
    """Run job after job until rank 0 posts the end. Raises GroupLost if a rank has gone."""
    get_ready(group, vae)
    while "job" in (command := group.next_command()):
        run_job(group, vae, Job.from_json(command["job"]))


def get_ready(group: Group, vae: WanVAE) -> None:
    """Warm up this rank, and wait until all ranks have done so. All ranks call it once, before their first job.

    One rank may have to compile for a minute while the others need not. A job that they began meanwhile would fail:
    they would miss the signs of life that a rank gives from the beginning of a job on. Raises GroupLost if a rank has
    gone.
    """
    if group.watchdog is not None:  # it must see that a long chunk goes on
        for module in vae.modules():
            module.register_forward_pre_hook(group.watchdog.tick)
    warm_up(vae)
    group.agree([0.0])
