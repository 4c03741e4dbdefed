"""Budget: how much disk and memory runs may take, in total and for each visitor."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from wanvae_app.config import WanConfig
from wanvae_app.jobs.job_state import JobState, Needs
from wanvae_app.jobs.result_store import WATCHED_SECONDS, ResultStore
from wanvae_app.jobs.unread_input import InputPlan
from wanvae_app.memory_estimate import free_bytes

DISK_RESERVE = (
    2**28
)  # bytes of the temporary folder's file system that are left to others, or a twentieth of it
MEMORY_RESERVE = 2**28  # bytes
VISITOR_SHARE = 0.5  # of all that runs may take: a visitor's part of it
ADDRESS_SHARE = 0.75  # of it: an address's part; several visitors may share one, or one may pass for several
MP4_SHARE = 0.25  # bytes of an MP4 per byte of its frames; noise takes about so much
ADVICE = "cut it shorter, make it smaller, or try again later"


class Share(NamedTuple):
    """The part of all room that some runs may take together."""

    part: float
    counts: Callable[[JobState], bool]  # whether a run is one of them

    def free(self, capacity: Needs, runs: list[JobState]) -> Needs:
        """What these runs leave of their part; negative if they take more."""
        used = [_used(run) for run in runs if self.counts(run)]
        disk, memory = sum(needs.disk for needs in used), sum(needs.memory for needs in used)
        return Needs(int(capacity.disk * self.part) - disk, int(capacity.memory * self.part) - memory)


EVERYTHING = Share(1.0, lambda run: True)


def shares_of(run: JobState) -> list[Share]:
    """The parts in which a run counts: its visitor's, and its address's if that tells visitors apart."""
    shares = [Share(VISITOR_SHARE, lambda other: other.owner == run.owner)]
    if run.address:
        shares.append(Share(ADDRESS_SHARE, lambda other: other.address == run.address))
    return shares


class Budget:
    """Grants disk and memory to runs before their input is read. Thread-safe.

    A run that has not ended takes what it was granted, an ended one what its files and frames take. When there is no
    room, ended runs are deleted: first those that no page watches, oldest first, then the visitor's own. When only a
    share is used up, the visitor's or his address's, runs that take part of it go first. Those that are
    being archived go last.
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
            deletable = self._deletable(run, needs)
            for num_deleted in range(len(deletable) + 1):
                free = self._free_for(run, without=deletable[:num_deleted])
                if needs.disk <= free.disk and needs.memory <= free.memory:
                    for ended in deletable[:num_deleted]:
                        self.store.delete(ended)
                    run.needs = needs
                    return True
            if any(not other.ended and other.needs != Needs(0, 0) for other in self.store.runs()):
                return False
        _refuse_beyond(run.name, needs, free)
        return False

    def _deletable(self, run: JobState, needs: Needs) -> list[JobState]:
        """The ended runs that may be deleted for this one, in the order in which they go."""
        now = time.monotonic()
        watched = {other for other in self.store.runs() if now - other.last_seen <= WATCHED_SECONDS}
        ended = [other for other in self.store.runs() if other.ended and other is not run]
        ended = [other for other in ended if other.owner == run.owner or other not in watched]
        capacity = self._capacity()
        short = [
            share
            for share in shares_of(run)
            if any(
                need > free for need, free in zip(needs, share.free(capacity, self.store.runs()), strict=True)
            )
        ]
        return sorted(
            ended,
            key=lambda o: (
                o.is_pinned,
                bool(short) and not any(s.counts(o) for s in short),
                o in watched,
            ),
        )

    def _free_for(self, run: JobState, without: list[JobState]) -> Needs:
        """What the run may take once the runs `without` are deleted."""
        runs = [other for other in self.store.runs() if other not in without]
        capacity = self._capacity()
        free = [share.free(capacity, runs) for share in (EVERYTHING, *shares_of(run))]
        return Needs(max(0, min(f.disk for f in free)), max(0, min(f.memory for f in free)))

    def _capacity(self) -> Needs:
        """What all runs together may take, what they have taken included."""
        runs = self.store.runs()
        disk = free_disk(self.store.folder) + sum(written_bytes(run) for run in runs)
        free = free_bytes(torch.device("cpu"))
        held = sum(map(_latent_bytes, runs))
        memory = 2**62 if free is None else free - MEMORY_RESERVE + held
        return Needs(max(0, disk), max(0, memory))


def needs_of(plan: InputPlan, config: WanConfig) -> Needs:
    """What a run with this input takes at most while it is read: its frames, its source, its MP4 and its latent."""
    shape, factor = plan.shape, config.output_factor
    frames = (
        config.num_frames(shape.num_latents) * shape.height * shape.width * factor**2 * config.out_channels
    )
    latent = (
        4 * shape.num_channels * shape.num_latents * shape.height * shape.width if plan.source_bytes else 0
    )
    disk = plan.source_bytes + int((1 + MP4_SHARE) * frames) + latent
    return Needs(disk, plan.memory_bytes + plan.reading_bytes)


def free_disk(folder: Path) -> int:
    """Bytes that this app may still write below `folder`, which need not exist yet."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    return max(0, disk.free - min(DISK_RESERVE, disk.total // 20))


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
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{max(num_bytes, 0) / 1000:.0f} kB"


def _latent_bytes(run: JobState) -> int:
    latent = run.latent
    return 0 if latent is None else latent.numel() * latent.element_size()


def _used(run: JobState) -> Needs:
    if run.ended:
        return Needs(written_bytes(run), _latent_bytes(run))
    return Needs(max(run.needs.disk, written_bytes(run)), run.needs.memory)


def _refuse_beyond(name: str, needs: Needs, free: Needs) -> None:
    for what, need, have in (("disk", needs.disk, free.disk), ("memory", needs.memory, free.memory)):
        if need > have:
            raise ValueError(
                f"{name} needs about {amount(need)} of the server's {what}, and {amount(have)} are free for you; "
                f"{ADVICE}."
            )
