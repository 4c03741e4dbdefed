"""Budget: how much disk and memory runs may take, in total and for each visitor."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import torch

from wanvae_app.config import WanConfig
from wanvae_app.jobs.job_state import JobState, Needs
from wanvae_app.jobs.result_store import WATCHED_SECONDS, ResultStore
from wanvae_app.jobs.unread_input import InputPlan
from wanvae_app.memory_estimate import free_bytes

DISK_RESERVE = 2**28  # bytes of the temporary folder's file system that are left to others
MEMORY_RESERVE = 2**28
VISITOR_SHARE = 0.5  # of all that runs may take: a visitor's part of it
MP4_SHARE = 0.25  # bytes of an MP4 per byte of its frames; noise takes about so much
ADVICE = "cut it shorter, make it smaller, or try again later"


class Budget:
    """Grants disk and memory to runs before their input is read. Thread-safe.

    A run that has not ended takes what it was granted, an ended one what its files and frames take. When disk is
    short, ended runs are deleted: first those that no page watches, oldest first, then the visitor's own.
    """

    def __init__(self, store: ResultStore) -> None:
        self.store = store
        self._lock = threading.Lock()

    def check(self, name: str, owner: str, needs: Needs) -> None:
        """Raise ValueError, with the numbers, if this would not fit though all runs were over."""
        disk, memory = self._capacity()
        share = Needs(int(disk * VISITOR_SHARE), int(memory * VISITOR_SHARE))
        _refuse_beyond(name, needs, share)

    def grant(self, run: JobState, needs: Needs) -> bool:
        """Grant a run what it needs, for which ended runs may be deleted. Return False if it has to wait for others.

        Raises ValueError, with the numbers, if no run is going on whose end would help.
        """
        with self._lock:
            for ended in [None, *self._deletable(run)]:
                if ended is not None:
                    self.store.delete(ended)
                free = self._free_for(run.owner)
                if needs.disk <= free.disk and needs.memory <= free.memory:
                    run.needs = needs
                    return True
            if any(not other.ended and other.needs != Needs(0, 0) for other in self.store.runs()):
                return False
        _refuse_beyond(run.name, needs, free)
        return False

    def _deletable(self, run: JobState) -> list[JobState]:
        now = time.monotonic()
        ended = [other for other in self.store.runs() if other.ended and other is not run]
        unwatched = [other for other in ended if now - other.last_seen > WATCHED_SECONDS]
        own = [other for other in ended if other.owner == run.owner and other not in unwatched]
        return unwatched + own

    def _free_for(self, owner: str) -> Needs:
        """What the owner's next run may take now."""
        runs = self.store.runs()
        capacity = self._capacity()
        used = [(run.owner, _used(run)) for run in runs]
        free = []
        for index, total in enumerate(capacity):
            by_all = sum(needs[index] for _, needs in used)
            by_owner = sum(needs[index] for other, needs in used if other == owner)
            free.append(max(0, min(total - by_all, int(total * VISITOR_SHARE) - by_owner)))
        return Needs(*free)

    def _capacity(self) -> Needs:
        """What all runs together may take, what they have taken included."""
        runs = self.store.runs()
        disk = free_disk(self.store.folder) - DISK_RESERVE + sum(written_bytes(run) for run in runs)
        free = free_bytes(torch.device("cpu"))
        held = sum(run.needs.memory for run in runs if not run.ended and run.is_read)
        memory = 2**62 if free is None else free - MEMORY_RESERVE + held
        return Needs(max(0, disk), max(0, memory))


def needs_of(plan: InputPlan, config: WanConfig) -> Needs:
    """What a run with this input takes at most: its frames, its source, its MP4 and its latent."""
    shape, factor = plan.shape, config.output_factor
    frames = config.num_frames(shape.num_latents) * shape.height * shape.width * factor**2 * 3
    latent = (
        4 * shape.num_channels * shape.num_latents * shape.height * shape.width if plan.source_bytes else 0
    )
    return Needs(plan.source_bytes + int((1 + MP4_SHARE) * frames) + latent, plan.memory_bytes)


def free_disk(folder: Path) -> int:
    """Bytes that can be written below `folder`, which need not exist yet."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def written_bytes(run: JobState) -> int:
    """Bytes of disk that the run takes now."""
    total = run.frames.num_bytes + (run.source.num_bytes if run.source is not None else 0)
    for path in (run.video_path, run.latent_path):
        try:
            total += os.stat(path).st_size if path is not None else 0
        except FileNotFoundError:  # it is being deleted
            continue
    return total


def amount(num_bytes: int) -> str:
    """A number of bytes in words, such as "2.4 GB"."""
    if num_bytes >= 10**9:
        return f"{num_bytes / 10**9:.1f} GB"
    return f"{max(num_bytes, 0) / 10**6:.0f} MB"


def _used(run: JobState) -> Needs:
    if run.ended:
        latent = run.latent
        return Needs(written_bytes(run), 0 if latent is None else latent.numel() * latent.element_size())
    return Needs(max(run.needs.disk, written_bytes(run)), run.needs.memory)


def _refuse_beyond(name: str, needs: Needs, free: Needs) -> None:
    for what, need, have in (("disk", needs.disk, free.disk), ("memory", needs.memory, free.memory)):
        if need > have:
            raise ValueError(
                f"{name} needs about {amount(need)} of the server's {what}, and {amount(have)} are free for you; "
                f"{ADVICE}."
            )
