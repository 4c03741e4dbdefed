"""Job, which every rank knows, and Run, rank 0's side of it, which any number of pages follow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanvae_app.codec import chunk_sizes
from wanvae_app.config import WanConfig
from wanvae_app.frame_log import FrameLog


class Status(StrEnum):
    """How far a job is. WRITING: all frames are there, the files to download are not yet."""

    QUEUED = "queued"
    RUNNING = "running"
    WRITING = "writing"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing will follow."""
        return self in (Status.FINISHED, Status.STOPPED, Status.FAILED)


@dataclass(frozen=True)
class Step:
    """One chunk of one phase: latent frames start to stop (exclusive)."""

    phase: str  # "encode" or "decode"
    chunk: int
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """What every rank must know of a job; plain data, it travels over the store as JSON.

    A "decode" turns a latent into frames; a "roundtrip" encodes frames to a latent and decodes that.
    """

    id: str
    kind: str
    shape: tuple[int, int, int, int]  # of the latent: C T H W
    chunk: int  # latent frames at a time
    parallel: bool  # False: rank 0 works alone, the others only agree

    @property
    def phases(self) -> tuple[str, ...]:
        return ("encode", "decode") if self.kind == "roundtrip" else ("decode",)

    def steps(self, interleaved: bool = False) -> list[Step]:
        """All chunks in the order in which every rank takes them; `interleaved` each is decoded once it is encoded, not
        after all of them."""
        steps = []
        for phase in self.phases:
            start = 0
            for chunk, size in enumerate(chunk_sizes(self.shape[1], self.chunk)):
                steps.append(Step(phase, chunk, start, start + size))
                start += size
        return sorted(steps, key=lambda step: step.chunk) if interleaved else steps


@dataclass(frozen=True)
class Activity:
    """Who did what: one rank's work on one chunk. `start` is seconds since the run started."""

    rank: int
    phase: str
    chunk: int
    start: float
    compute_seconds: float
    wait_seconds: float


class JobState:
    """One job as rank 0 keeps it and its pages follow it; they call it a run.

    The jobs thread writes, everyone reads. `message` says in a sentence what happens now, or what went wrong.
    """

    def __init__(
        self,
        job: Job,
        *,
        folder: Path,
        frames: FrameLog,
        num_frames: int,
        owner: str = "",
        name: str = "",
        fps: float = 16.0,
        latent: Tensor | None = None,
        source: FrameLog | None = None,
    ) -> None:
        self.id = job.id
        self.job = job
        self.owner = owner  # the session that may stop it
        self.name = name  # the file's name, as shown
        self.folder = folder  # everything of this run lies here and goes with it
        self.frames = frames
        self.num_frames = num_frames  # that there will be
        self.source = source
        self.fps = fps
        self.latent = latent  # raw, [1 C T H W] on the CPU; a roundtrip's appears when it is encoded
        self.status = Status.QUEUED
        self.message = "Waiting."
        self.phase = job.phases[0]
        self.done = {phase: 0 for phase in job.phases}  # latent frames, by phase
        self.created = time.monotonic()
        self.started: float | None = None
        self.first_frame: float | None = None
        self.finished: float | None = None  # when the last frame was there, or the run ended otherwise
        self.encode_seconds: float | None = None
        self.decode_seconds: float | None = None
        self.num_ranks = 1  # that take part
        self.activity: list[Activity] = []
        self.peak_bytes: list[int] = []  # by rank
        self.video_path: Path | None = None
        self.latent_path: Path | None = None
        self.stop_requested = False
        self.why_stopped = ""  # if nobody pressed Stop
        self.last_seen = time.monotonic()  # when a page last asked for it
        self.place = 0
        self.on_stop: Callable[[JobState], None] | None = None
        self._version = 0
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        return self.status.ended

    def queue_place(self) -> int:
        """How many runs will have to end before this one starts; 0 unless it is queued."""
        return self.place if self.status == Status.QUEUED else 0

    def stop(self, why: str = "") -> None:
        """Ask for the end: at once for a queued run, at the next chunk for a running one. `why` says more than that
        somebody wanted it."""
        self.stop_requested, self.why_stopped = True, why
        if self.on_stop is not None:
            self.on_stop(self)
        self.change()

    def seen(self) -> None:
        """Say that somebody is watching: a run that is being watched is not deleted."""
        self.last_seen = time.monotonic()

    def change(self, **values: Any) -> None:
        """Set attributes and wake whoever waits."""
        with self._changed:
            for name, value in values.items():
                assert hasattr(self, name), name
                setattr(self, name, value)
            self._version += 1
            self._changed.notify_all()

    def wait(self, timeout: float | None = None, version: int | None = None) -> int:
        """Block until something changed (since `version`, as returned by an earlier call; else since now) or
        `timeout` seconds have passed; returns the version."""
        with self._changed:
            since = self._version if version is None else version
            self._changed.wait_for(lambda: self._version != since, timeout)
            return self._version

    def summary(self) -> str:
        """What was done and how it ended, in a line for the log."""
        c, t, h, w = self.job.shape
        seconds = self.finished - self.started if self.finished and self.started else 0.0
        rate = f", {len(self.frames) / seconds:.1f} fps" if seconds else ""
        who = f"{self.num_ranks} ranks" if self.num_ranks > 1 else "1 rank"
        what = f"{self.job.kind} of {c}x{t}x{h}x{w} to {len(self.frames)} of {self.num_frames} frames"
        size = f"{self.frames.width}x{self.frames.height}"
        outcome = self.status if self.status == Status.FINISHED else f"{self.status}: {self.message}"
        return f"{what} {size}, {who}, chunk {self.job.chunk}, {seconds:.2f} s{rate}: {outcome}"

    def close(self) -> None:
        """Free the frames; the folder is its owner's to delete."""
        self.frames.close()
        if self.source is not None:
            self.source.close()


def shape_of_latent(latent: Tensor, config: WanConfig) -> tuple[int, int, int, int]:
    """C T H W of a latent [1, C, T, H, W]; ValueError if this VAE cannot decode it."""
    if latent.dim() != 5 or len(latent) != 1 or latent.shape[1] != config.z_dim or not latent.numel():
        raise ValueError(
            f"A latent of shape {list(latent.shape)} cannot be decoded: this VAE takes "
            f"[1, {config.z_dim}, T, H, W]."
        )
    if not bool(torch.isfinite(latent).all()):
        raise ValueError("The latent holds values that are not numbers (NaN or infinity).")
    _, c, t, h, w = latent.shape
    return c, t, h, w


def shape_of_video(frames: FrameLog, config: WanConfig) -> tuple[int, int, int, int]:
    """C T H W of the latent that these frames encode to; ValueError if this VAE cannot encode them."""
    factor = config.spatial_factor
    height, width = frames.height // factor, frames.width // factor
    if (height * factor, width * factor) != (frames.height, frames.width) or not height or not width:
        raise ValueError(
            f"A video of {frames.width}x{frames.height} cannot be encoded: its sides must be multiples "
            f"of {factor}."
        )
    return config.z_dim, config.num_latents(len(frames)), height, width
