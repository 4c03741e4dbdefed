"""Two hundred jobs leave nothing behind: no memory, thread, file, object or folder."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import time
from pathlib import Path

import torch
from support.rank_faults import FAULTS, install_faults
from support.ranked_jobs import on_ranks, wait_until_ended
from support.tiny import some_latent, some_video

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.rank_task import RankTask
from wanvae_app.jobs.service import JobService
from wanvae_app.page.entry import RunInput
from wanvae_app.page.history import History


def resources(jobs: JobService) -> dict[str, list[int]]:
    """What all ranks' processes hold, by rank, and what rank 0 holds besides."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what this process has freed
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


def run_200_jobs(jobs: JobService) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Resources after ten jobs and after 200, started as a page does; of eight jobs three are stopped and one fails."""
    early, history = {}, History(jobs)
    faults = [n for n, fault in FAULTS.items() if fault.rank < 2 and fault.place != "gather"]
    for number in range(200):
        fails = number % 8 == 7
        num_latents = faults[number // 8 % len(faults)] if fails else 1 + number % 3
        source = some_video(9) if number % 5 == 4 and not fails else None
        latent = some_latent(num_latents, 4 + number % 3) if source is None else None
        chunk = num_latents // 4 if fails else 1 + number % 2
        run = jobs.new_run(latent=latent, source=source, chunk=chunk, parallel=number % 7 != 0)
        entry = history.submit(run, RunInput(str(number)))
        if number % 2 and not fails:
            while run.status == "queued":
                run.wait(0.01)
            run.stop()
        wait_until_ended(run)
        while not entry.settled:
            time.sleep(0.001)
        run.last_seen = -1e9  # no page watches it any more
        if number == 9:
            early = resources(jobs)
    return early, resources(jobs)


def test_200_jobs_leave_nothing_behind() -> None:
    early, late = on_ranks(2, run_200_jobs, install_faults)
    print("after the tenth and the last run:", early, late)
    # Only finished runs have files, and their number among the runs that are kept varies.
    slack = {"kilobytes": 20_000, "threads": 1, "files": 3, "objects": 6, "folders": 1, "disk": 50_000}
    for what, allowed in slack.items():
        for before, after in zip(early[what], late[what], strict=True):
            assert after <= before + allowed, (what, early, late)
