"""The app with faults on order. torchrun starts this instead of app.py, so the app itself needs no test hooks.

A test orders a fault with a file in the folder RIG. Chunks count from 1, in each phase anew:

    hold-RANK-CHUNK        wait before the chunk until the file is gone; meanwhile there is a file held-RANK-CHUNK
    raise-RANK-CHUNK       raise before the chunk
    halo-RANK-CHUNK        raise inside the chunk, while the neighbours wait for rows
    gather-RANK-CHUNK      raise when the encoded chunk is sent to rank 0
    to_uint8-RANK-CHUNK    raise when the decoded chunk is made into pixels
    kill-RANK-CHUNK        SIGKILL this rank before the chunk
    hang-RANK-CHUNK        never start the chunk
    spin-RANK-CHUNK        never finish the chunk: the GPU, or without one the CPU, waits for a flag that never comes
    lose-RANK-CHUNK        lose the GPU: a kernel writes to an address that does not exist, after which every call of
                           CUDA fails; without a GPU one call fails, and the app finds the device lost
    memory-RANK-CHUNK      let another program take all memory that the GPU has left, until the chunk has failed
    finish-RANK-0          raise when the last frames are waited for
    free-RANK-0            report as many bytes of free memory as the file says, when a job starts

What is raised has the file's text. The file is deleted when its fault happens.

POST /rig/run?latents=5&chunk=1&parallel=1&video=0&height=8&width=6 starts a run of noise and answers with its id.
POST /rig/touch?id=ID&frame=0&row=0&column=0 changes one decoded pixel of a run by one step, in one channel.

SIGUSR1 lets a rank print where all its threads are.

RIG_LIMIT in the environment is the watchdog's limit for a step, in seconds.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from support.gpu_memory import no_memory_left

import app
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs import rank_task, worker
from wanvae_app.jobs.job import Step
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.jobs.service import JobService
from wanvae_app.model.vae import WanVAE
from wanvae_app.page.entry import RunInput
from wanvae_app.page.history import History
from wanvae_app.parallel import watchdog
from wanvae_app.parallel.shard import Shard

RIG = Path(os.environ["RIG"])
RANK = os.environ.get("RANK", "0")
now = {"chunk": 0}  # the chunk that this rank is in; 0 at a job's start and end


def ordered(fault: str) -> str | None:
    """Return the text of the file that orders this fault here and now, and delete it; None if there is none."""
    path = RIG / f"{fault}-{RANK}-{now['chunk']}"
    if not path.exists():
        return None
    text = path.read_text() or "rigged"
    path.unlink()
    return text


def fail(fault: str) -> None:
    """Raise if this fault is ordered."""
    if (text := ordered(fault)) is not None:
        raise RuntimeError(text)


def failing(fault: str, function: Any) -> Any:
    """Return the function, made to raise if this fault is ordered."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        fail(fault)
        return function(*args, **kwargs)

    return wrapped


def run_step(self: RankTask, step: Step, original: Any = RankTask.run_step) -> Any:
    """RankTask.run_step, after the faults that are ordered before this chunk."""
    now["chunk"] = step.chunk + 1
    hold = RIG / f"hold-{RANK}-{now['chunk']}"
    held = RIG / f"held-{RANK}-{now['chunk']}"
    if hold.exists():
        held.touch()
        while hold.exists():
            if self.group.watchdog is not None:
                self.group.watchdog.tick()
            time.sleep(0.01)
        held.unlink()
    if ordered("kill") is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    if ordered("hang") is not None:
        time.sleep(3600)
    fail("raise")
    device = self.group.device
    if ordered("spin") is not None:
        never_finish(device)
    if (text := ordered("lose")) is not None:
        lose(device, text)
    if ordered("memory") is not None:
        with no_memory_left(device):
            times = original(self, step)
            torch.cuda.synchronize(device)
            return times
    return original(self, step)


def never_finish(device: torch.device) -> None:
    """Give the device work that has no end."""
    if device.type == "cuda":
        from support.gpu_faults import spin

        spin(torch.zeros(1, dtype=torch.int32, device=device))
    while device.type == "cpu":
        continue


def lose(device: torch.device, text: str) -> None:
    """Lose the device, for this process. `text` is what the failing call says on a CPU."""
    if device.type == "cuda":
        from support.gpu_faults import write_nowhere

        write_nowhere(device)
        return
    worker.device_fault = lambda device: text
    raise RuntimeError(text)


def finish(self: RankTask, original: Any = RankTask.finish) -> Any:
    """RankTask.finish, unless a fault is ordered."""
    now["chunk"] = 0
    fail("finish")
    return original(self)


def free_bytes(device: torch.device, original: Any = worker.free_bytes) -> int | None:
    """The bytes of free memory that are ordered, else the real ones."""
    now["chunk"] = 0
    text = ordered("free")
    return int(text) if text is not None else original(device)


def with_run_route(make_routes: Any) -> Any:
    """Return make_routes with two more routes, which start a run of noise, and change a pixel of a run."""

    def wrapped(jobs: JobService, history: History) -> list[BaseRoute]:
        def start(request: Request) -> Response:
            options = {name: int(value) for name, value in request.query_params.items()}
            num_latents = options.get("latents", 5)
            config = jobs.vae.config
            generator = torch.Generator().manual_seed(num_latents)
            size = options.get("height", 8), options.get("width", 6)
            latent, source = torch.randn(1, config.z_dim, num_latents, *size, generator=generator), None
            if options.get("video"):
                side = 6 * config.spatial_factor
                source = FrameLog(side, side)
                source.append(np.zeros((config.num_frames(num_latents), side, side, 3), np.uint8))
                source.finish()
            run = jobs.new_run(
                latent=None if source is not None else latent,
                source=source,
                chunk=options.get("chunk", 1),
                parallel=bool(options.get("parallel", 1)),
                name="noise",
            )
            history.submit(run, RunInput("noise"))
            return JSONResponse({"id": run.id})

        def touch(request: Request) -> Response:
            log = jobs.get(request.query_params["id"]).frames
            frame, row, column = (int(request.query_params[name]) for name in ("frame", "row", "column"))
            value = log.read(frame, frame + 1)[0, row, column, 1]
            offset = frame * log.frame_bytes + (row * log.width + column) * 3 + 1
            os.pwrite(log._fd, bytes([value - 1 if value else 1]), offset)
            return JSONResponse({"was": int(value)})

        routes = [("/rig/run", start), ("/rig/touch", touch)]
        return [*make_routes(jobs, history), *(Route(path, f, methods=["POST"]) for path, f in routes)]

    return wrapped


def rig() -> None:
    """Make this rank heed the orders."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if RANK == "0":
        from wanvae_app.page import blocks

        blocks.make_routes = with_run_route(blocks.make_routes)
    if limit := float(os.environ.get("RIG_LIMIT", 0)):
        watchdog.STEP_LIMITS.update(cpu=limit, cuda=limit)
        watchdog.LATENT_LIMITS["cuda"] = 0.0
        watchdog.IDLE_LIMITS["cuda"] = limit
    worker.free_bytes = free_bytes  # type: ignore[assignment]
    RankTask.run_step = run_step  # type: ignore[assignment, method-assign]
    RankTask.finish = finish  # type: ignore[assignment, method-assign]
    Shard.halo = failing("halo", Shard.halo)  # type: ignore[method-assign]
    rank_task.gather = failing("gather", rank_task.gather)
    WanVAE.to_uint8 = failing("to_uint8", WanVAE.to_uint8)  # type: ignore[method-assign]


if __name__ == "__main__":
    rig()
    app.main()
