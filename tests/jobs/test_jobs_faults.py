"""Jobs on real ranks without the page: what fails, and what two hundred of them leave behind."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from support.ranked_jobs import finish, on_ranks, pixels
from support.tiny import some_latent, some_video

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import JobState, Step
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.jobs.service import JobService
from wanvae_app.model.vae import WanVAE
from wanvae_app.page.history import Given, History
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard


def rig(group: Group) -> None:
    """Faults by the number of latent frames: in the third chunk, on the rank and in the way that FAULTS says."""
    now: dict[str, Any] = {}

    def failing(where: str, function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if now.get("fault") == (group.rank, where):
                now.clear()
                raise RuntimeError(f"rigged {where}")
            return function(*args, **kwargs)

        return wrapped

    def take(self: RankTask, step: Step, original: Any = RankTask.take) -> Any:
        if step.chunk == 2:
            now["fault"] = FAULTS.get(self.job.shape[1])
        return original(self, step)

    from wanvae_app.jobs import rank_task as part

    Shard.halo = failing("inside", Shard.halo)  # type: ignore[method-assign]
    part.gather = failing("gather", part.gather)
    part.scatter = failing("scatter", part.scatter)
    WanVAE.to_uint8 = failing("pixels", WanVAE.to_uint8)  # type: ignore[method-assign]
    FrameLog.append = failing("append", FrameLog.append)  # type: ignore[method-assign]
    RankTask.take = take  # type: ignore[method-assign]


FAULTS = {
    5 + rank * 6 + i: (rank, where)
    for rank in range(3)
    for i, where in enumerate(("inside", "scatter", "pixels", "gather", "append"))
    if not (where == "append" and rank)
}


def fail_and_go_on(jobs: JobService) -> list[tuple[tuple[int, str], str, str, float]]:
    outcomes = []
    for num_latents, fault in FAULTS.items():
        if fault[0] >= jobs.group.size:
            continue
        source = some_video(4 * num_latents - 3) if fault[1] == "gather" else None
        latent = some_latent(num_latents) if source is None else None
        run = jobs.new_run(latent=latent, source=source, chunk=num_latents // 4)
        jobs.submit(run)
        finish(run)
        outcomes.append((fault, run.status, run.message, run.finished - run.started))
        run = jobs.new_run(latent=some_latent(2))
        jobs.submit(run)
        assert finish(run).state == "finished", f"after {fault}: {run.message}"
    return outcomes


def test_a_failure_names_rank_and_reason_and_the_next_run_works() -> None:
    for (rank, where), state, message, seconds in on_ranks(3, fail_and_go_on, rig):
        assert state == "failed" and seconds < 5
        assert f"Rank {rank} failed" in message and f"rigged {where}" in message, message
        assert "coding chunk" in message or where == "append"


def without_a_folder(jobs: JobService) -> tuple[str, str, int]:
    shutil.rmtree(jobs.folder)
    jobs.folder.write_text("in the way")
    run = jobs.new_run(latent=some_latent(2))
    jobs.submit(run)
    finish(run)
    jobs.folder.unlink()
    return run.status, run.message, len(pixels(run))


def test_without_a_folder_the_frames_are_still_there() -> None:
    state, message, num_frames = on_ranks(1, without_a_folder)
    assert state == "finished" and num_frames == 5
    assert "kept in memory" in message and "could not be written" in message


def resources(jobs: JobService) -> dict[str, list[int]]:
    """What the processes hold, by rank."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what this process has freed, it has given back
    assert jobs.group.watchdog is not None
    store = jobs.group.watchdog.store
    pids = [store.get(f"process/{rank}").decode().split()[1] for rank in range(jobs.group.size)]
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return {
        "kilobytes": [int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in status],
        "threads": [len(os.listdir(f"/proc/{pid}/task")) for pid in pids],
        "files": [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids],
        "objects": [
            sum(isinstance(x, (JobState, RankTask, FrameLog, torch.Tensor)) for x in gc.get_objects())
        ],
        "folders": [len(list(jobs.folder.iterdir()))],
        "disk": [sum(path.stat().st_size for path in jobs.folder.rglob("*") if path.is_file())],
    }


def many_runs(jobs: JobService) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Of eight runs, as a page starts them, three are stopped and one fails."""
    early, history = {}, History(jobs)
    faults = [num_latents for num_latents, (rank, where) in FAULTS.items() if rank < 2 and where != "gather"]
    for number in range(200):
        fails = number % 8 == 7
        num_latents = faults[number // 8 % len(faults)] if fails else 1 + number % 3
        source = some_video(9) if number % 5 == 4 and not fails else None
        latent = some_latent(num_latents, 4 + number % 3) if source is None else None
        chunk = num_latents // 4 if fails else 1 + number % 2
        run = jobs.new_run(latent=latent, source=source, chunk=chunk, parallel=number % 7 != 0)
        entry = history.submit(run, Given(str(number)))
        if number % 2 and not fails:
            while run.status == "queued":
                run.wait(0.01)
            run.stop()
        finish(run)
        while not entry.settled:
            time.sleep(0.001)
        run.last_seen = -1e9  # nobody watches any more
        if number == 9:
            early = resources(jobs)
    return early, resources(jobs)


def test_200_runs_leave_nothing_behind() -> None:
    early, late = on_ranks(2, many_runs, rig)
    print("after the tenth and the last run:", early, late)
    # Not all of the runs that are kept have finished, and only those have files.
    slack = {"kilobytes": 20_000, "threads": 1, "files": 3, "objects": 6, "folders": 1, "disk": 50_000}
    for what, allowed in slack.items():
        for before, after in zip(early[what], late[what], strict=True):
            assert after <= before + allowed, (what, early, late)
