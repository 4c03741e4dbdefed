"""The app with faults built in: torchrun starts this instead of app.py, so production code has no test hooks.

Files in the folder RIG steer it, each for the chunk (counted from 1, over both phases) of a rank:

    hold-RANK-CHUNK        wait before the chunk until the file is gone; held-RANK-CHUNK appears meanwhile
    raise-RANK-CHUNK       raise before the chunk, with the file's text
    inside-RANK-CHUNK      raise inside the chunk, while the neighbours wait for rows
    gather-RANK-CHUNK      raise when the chunk's latent goes to rank 0
    pixels-RANK-CHUNK      raise when the chunk's frames are made into pixels
    kill-RANK-CHUNK        SIGKILL before the chunk
    hang-RANK-CHUNK        never come back from the chunk
    finish-RANK-0          raise when the last frames are seen off
    free-RANK-0            have as many bytes of memory as the file says, when a job starts

A file is used up when its fault happens. POST /rig/run?latents=5&chunk=1&parallel=1&video=0 starts a run and
answers with its id.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

import app
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs import rank_task as task
from wanvae_app.jobs import worker as work
from wanvae_app.jobs.job import Step
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.jobs.service import JobService
from wanvae_app.model.vae import WanVAE
from wanvae_app.page.history import Given, History
from wanvae_app.parallel.shard import Shard

RIG = Path(os.environ["RIG"])
RANK = os.environ.get("RANK", "0")
now = {"chunk": 0}  # that this rank is in


def ordered(fault: str) -> str | None:
    """The text of the file that orders this fault here and now; the file is used up."""
    path = RIG / f"{fault}-{RANK}-{now['chunk']}"
    if not path.exists():
        return None
    text = path.read_text() or "rigged"
    path.unlink()
    return text


def fail(fault: str) -> None:
    """Raise, if that is ordered."""
    if (text := ordered(fault)) is not None:
        raise RuntimeError(text)


def failing(fault: str, function: Any) -> Any:
    """The function, which may be ordered to fail."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        fail(fault)
        return function(*args, **kwargs)

    return wrapped


def take(self: RankTask, step: Step, original: Any = RankTask.take) -> Any:
    """One chunk, with whatever is ordered before it."""
    now["chunk"] = step.chunk + 1
    hold = RIG / f"hold-{RANK}-{now['chunk']}"
    held = RIG / f"held-{RANK}-{now['chunk']}"
    if hold.exists():
        held.touch()
        while hold.exists():
            self.group.watchdog.tick() if self.group.watchdog is not None else None
            time.sleep(0.01)
        held.unlink()
    if ordered("kill") is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    if ordered("hang") is not None:
        time.sleep(3600)
    fail("raise")
    return original(self, step)


def finish(self: RankTask, original: Any = RankTask.finish) -> Any:
    """The end of a clip."""
    now["chunk"] = 0
    fail("finish")
    return original(self)


def free_bytes(device: torch.device, original: Any = work.free_bytes) -> int | None:
    """Memory, as much as is ordered."""
    now["chunk"] = 0
    text = ordered("free")
    return int(text) if text is not None else original(device)


def with_run_route(make_routes: Any) -> Any:
    """make_routes, and a route that starts a run of noise."""

    def wrapped(jobs: JobService, history: History) -> list[BaseRoute]:
        def start(request: Request) -> Response:
            wish = {name: int(value) for name, value in request.query_params.items()}
            num_latents = wish.get("latents", 5)
            config = jobs.vae.config
            generator = torch.Generator().manual_seed(num_latents)
            latent, source = torch.randn(1, config.z_dim, num_latents, 8, 6, generator=generator), None
            if wish.get("video"):
                side = 6 * config.spatial_factor
                source = FrameLog(side, side)
                source.append(np.zeros((config.num_frames(num_latents), side, side, 3), np.uint8))
                source.finish()
            run = jobs.new_run(
                latent=None if source is not None else latent,
                source=source,
                chunk=wish.get("chunk", 1),
                parallel=bool(wish.get("parallel", 1)),
                name="noise",
            )
            history.submit(run, Given("noise"))
            return JSONResponse({"id": run.id})

        return [*make_routes(jobs, history), Route("/rig/run", start, methods=["POST"])]

    return wrapped


def rig() -> None:
    """Put the faults in place."""
    if RANK == "0":
        from wanvae_app.page import blocks as ui

        ui.make_routes = with_run_route(ui.make_routes)
    work.free_bytes = free_bytes  # type: ignore[assignment]
    RankTask.take = take  # type: ignore[assignment, method-assign]
    RankTask.finish = finish  # type: ignore[assignment, method-assign]
    Shard.halo = failing("inside", Shard.halo)  # type: ignore[method-assign]
    task.gather = failing("gather", task.gather)
    WanVAE.to_uint8 = failing("pixels", WanVAE.to_uint8)  # type: ignore[method-assign]


if __name__ == "__main__":
    rig()
    app.main()
