"""Jobs on real ranks, without the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from support.grouped import run_group
from support.tiny import tiny_vae

from wanvae_app.jobs.job import JobState
from wanvae_app.jobs.service import JobService, follow
from wanvae_app.parallel.process_group import Group


def on_ranks(
    size: int, scene: Callable[[JobService], Any], prepare: Callable[[Group], None] | None = None
) -> Any:
    """What scene(jobs) returns on rank 0 while the other ranks follow; `prepare` first runs on all."""
    return run_group(size, _rank, scene, prepare)[0]


def _rank(group: Group, scene: Callable[[JobService], Any], prepare: Callable[[Group], None] | None) -> Any:
    if prepare is not None:
        prepare(group)
    vae = tiny_vae(torch.float64)
    if group.rank > 0:
        return follow(group, vae)
    jobs = JobService(group, vae)
    try:
        return scene(jobs)
    finally:
        folder = jobs.folder
        jobs.close()
        assert not folder.exists()


def finish(run: JobState, timeout: float = 30) -> JobState:
    """Wait until a run has ended."""
    version = None
    for _ in range(int(timeout / 0.1)):
        if run.ended:
            return run
        version = run.wait(0.1, version)
    raise TimeoutError(f"the run is still {run.status}: {run.message}")


def pixels(run: JobState) -> np.ndarray:
    return run.frames.read(0, len(run.frames))
