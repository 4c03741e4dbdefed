"""Jobs on real ranks, without the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from support.grouped import run_group
from support.tiny import tiny_vae

from wanvae_app.jobs.follower import follow
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group


def on_ranks(
    size: int,
    scene: Callable[[JobService], Any],
    prepare: Callable[[Group], None] | None = None,
    make_vae: Callable[[torch.dtype], WanVAE] = tiny_vae,
) -> Any:
    """Return what scene(jobs) returns on rank 0, while the other ranks follow. `prepare` runs before, on all ranks."""
    return run_group(size, _run_rank, scene, prepare, make_vae)[0]


def _run_rank(
    group: Group,
    scene: Callable[[JobService], Any],
    prepare: Callable[[Group], None] | None,
    make_vae: Callable[[torch.dtype], WanVAE],
) -> Any:
    if prepare is not None:
        prepare(group)
    vae = make_vae(torch.float64)
    if group.rank > 0:
        return follow(group, vae)
    jobs = JobService(group, vae)
    try:
        return scene(jobs)
    finally:
        folder = jobs.folder
        jobs.close()
        assert not folder.exists()


def run_to_end(jobs: JobService, timeout: float = 30, **options: Any) -> JobState:
    """Make a run with these options of `new_run`, submit it, and return it when it has ended."""
    run = jobs.new_run(**options)
    jobs.submit(run)
    return wait_until_ended(run, timeout)


def wait_until_ended(run: JobState, timeout: float = 30) -> JobState:
    """Return the run when it has ended. Raises TimeoutError after `timeout` seconds."""
    version = None
    for _ in range(int(timeout / 0.1)):
        if run.ended:
            return run
        version = run.wait(0.1, version)
    raise TimeoutError(f"the run is still {run.status}: {run.message}")


def frames_of(run: JobState) -> np.ndarray:
    """Return all frames of a run, uint8 [T H W C]."""
    return run.frames.read(0, len(run.frames))
