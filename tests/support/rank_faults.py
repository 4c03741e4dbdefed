"""Faults in jobs on real ranks: the number of a job's latent frames says which rank fails, and where."""

from __future__ import annotations

from typing import Any, NamedTuple

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs import rank_task
from wanvae_app.jobs.job import Step
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard


class Fault(NamedTuple):
    """One exception, in the third chunk of a job."""

    rank: int
    place: str  # one of PLACES


PLACES = (
    "halo",  # while the neighbours wait for rows
    "scatter",  # of the latent
    "to_uint8",
    "gather",  # of an encoded latent
    "append",  # to the frame log: on rank 0 only
)
# By the number of latent frames of the job that it happens in.
FAULTS = {
    5 + rank * 6 + i: Fault(rank, place)
    for rank in range(3)
    for i, place in enumerate(PLACES)
    if not (place == "append" and rank)
}


def install_faults(group: Group) -> None:
    """Make this rank's jobs fail as FAULTS says."""
    due: list[Fault] = []  # in the present chunk

    def failing(place: str, function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if Fault(group.rank, place) in due:
                due.clear()
                raise RuntimeError(f"rigged {place}")
            return function(*args, **kwargs)

        return wrapped

    def run_step(self: RankTask, step: Step, original: Any = RankTask.run_step) -> Any:
        if step.chunk == 2:
            due[:] = [fault for num, fault in FAULTS.items() if num == self.job.shape.num_latents]
        return original(self, step)

    RankTask.run_step = run_step  # type: ignore[method-assign]
    Shard.halo = failing("halo", Shard.halo)  # type: ignore[method-assign]
    FrameLog.append = failing("append", FrameLog.append)  # type: ignore[method-assign]
    WanVAE.to_uint8 = failing("to_uint8", WanVAE.to_uint8)  # type: ignore[method-assign]
    for name in ("scatter", "gather"):
        setattr(rank_task, name, failing(name, getattr(rank_task, name)))
