"""RankTask: what one rank does for one job: it codes its part of the picture, and exchanges tensors with rank 0."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.jobs.job import Job, JobKind, Phase, Step
from wanvae_app.jobs.job_state import JobState
from wanvae_app.model.pixels import from_uint8, with_channels
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.frame_gather import FrameCollector, FrameSender
from wanvae_app.parallel.gather import gather, scatter
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard


@dataclass(frozen=True)
class StepTimes:
    """When this rank worked on a step that is completed."""

    step: Step
    start: float  # seconds of `time.monotonic`
    seconds: float  # from start to end
    wait_seconds: float  # of these, in exchanges with other ranks
    is_finite: bool  # whether all numbers that were decoded are


@dataclass(frozen=True)
class _PendingStep:
    """A step that the device may still be working on."""

    step: Step
    start: float  # when this rank began it, in seconds of `time.monotonic`
    end: torch.cuda.Event | None  # None on a CPU: the step is completed
    total_wait_seconds: Callable[[], float]  # the shard's, up to the end of the step; call it after the end
    highest: Tensor | None  # of the decoded numbers, in the host's memory; NaN if one is not finite


class RankTask:
    """One rank's part in one job, from the first step to the last frame.

    On rank 0, `run` holds the input and receives the results. On the other ranks it is None.
    """

    def __init__(self, group: Group, vae: WanVAE, job: Job, shard: Shard, run: JobState | None) -> None:
        self.group = group
        self.vae = vae
        self.job = job
        self.shard = shard
        self.run = run
        self._pending: _PendingStep | None = None
        self._last_end = 0.0  # of the last completed step, in seconds of `time.monotonic`
        self._total_wait_seconds = shard.seconds_waited  # of the shard, up to that moment
        self._latents: list[Tensor] = []  # this rank's parts, encoded and not yet decoded
        self._is_encoding = Phase.ENCODE in job.phases  # until the last chunk is encoded
        self._frame_sink = (
            FrameSender(group) if run is None else FrameCollector(group, shard, self._append_frames)
        )
        steps = job.steps()
        encoder = encode_chunks(vae, self._video_parts(s for s in steps if s.phase == Phase.ENCODE), shard)
        decoder = decode_chunks(vae, self._latent_parts(s for s in steps if s.phase == Phase.DECODE), shard)
        self._encoder = cast(Generator[Tensor], encoder)
        self._decoder = cast(Generator[Tensor], decoder)

    def reuse_memory(self) -> bool:
        """Keep the memory of the last clip if this one needs no more, and return True; else free it, return False.

        See `cuda_graph.py` for what a clip leaves to the next one.
        """
        shard, config, steps = self.shard, self.vae.config, self.job.steps()
        first = steps[0]
        shape, scale = self._latent_shape(first), 1
        lengths = [step.stop - step.start for step in steps if step.phase == first.phase]
        if first.phase == Phase.ENCODE:
            scale = config.spatial_factor
            shape = (1, config.in_channels, config.num_frames(shape[2]), shape[3] * scale, shape[4] * scale)
            lengths = [shape[2], *(config.temporal_factor * length for length in lengths[1:])]
        mine = shard.part_shape(shape, scale)
        return self.vae.keeps_memory_for(first.phase, mine, shard, max(lengths))

    def run_step(self, step: Step) -> StepTimes | None:
        """Start one step, and return the times of the step that is completed by then; None if none is.

        On a CPU that is this step. On a GPU it is the step before: the ranks agree on their next step while their
        devices still work on this one. Until all chunks are encoded, a GPU completes this step as well, because encoded
        latents go through the host.
        """
        start, highest = time.monotonic(), None
        if step.phase == Phase.ENCODE:
            latent = next(self._encoder)
            if step.stop == self.job.shape.num_latents:
                self._encoder.close()  # the decoder needs its memory
                self._is_encoding = False
            if self.job.kind == JobKind.ROUNDTRIP:
                self._latents.append(latent)
            wide = torch.promote_types(latent.dtype, torch.float32)
            whole = gather(self.group, self.shard, latent.to(wide), self._latent_shape(step), self.shard.dim)
            if self.run is not None:
                assert self.run.latent is not None and whole is not None
                self.run.latent[:, :, step.start : step.stop] = whole
        else:
            frames = next(self._decoder)
            highest = _copy_to_host(frames.amax())
            self._frame_sink.put(self.vae.to_uint8(frames))
        end = torch.cuda.current_stream().record_event() if self.group.device.type == "cuda" else None
        pending = _PendingStep(step, start, end, self.shard.request_seconds_waited(), highest)
        before, self._pending = self._pending, pending
        if end is None or step.phase == Phase.ENCODE or self._is_encoding:
            return self._complete_pending()
        times = self._complete(before)
        self._check_connection()
        return times

    def finish(self) -> StepTimes | None:
        """Complete the last step, and wait until its frames have left this rank; on rank 0 until all are in the log."""
        times = (
            self._complete_pending()
        )  # first, because the watchdog does not watch a thread that waits for frames
        self._frame_sink.finish()
        self._check_connection()
        return times

    def close(self) -> None:
        """Free the clip's memory.

        Nothing else frees it: the generators hold this object, which holds them.
        """
        self._encoder.close()
        self._decoder.close()
        self._latents.clear()

    def abandon_frames(self) -> None:
        """After a failure, forget the frames that are on their way to rank 0.

        Rank 0 may call it only when all ranks know of the failure: it blocks until they have closed their connections.
        """
        self._frame_sink.abandon()

    def _complete_pending(self) -> StepTimes | None:
        pending, self._pending = self._pending, None
        times = self._complete(pending)
        self._check_connection()
        return times

    def _complete(self, pending: _PendingStep | None) -> StepTimes | None:
        """Wait until the device has completed the step; return its times."""
        if pending is None:
            return None
        if pending.end is not None:
            pending.end.synchronize()  # raises what went wrong on the device
        # A device that still worked on the step before began this one after it.
        start, now = max(pending.start, self._last_end), time.monotonic()
        total = pending.total_wait_seconds()
        wait_seconds = total - self._total_wait_seconds
        self._last_end, self._total_wait_seconds = now, total
        is_finite = pending.highest is None or math.isfinite(pending.highest.item())
        return StepTimes(pending.step, start, now - start, wait_seconds, is_finite)

    def _check_connection(self) -> None:
        if self.group.broken:  # exchanges that were aborted return as if the tensors had arrived
            raise RuntimeError("the connection to another rank was aborted")

    def _append_frames(self, pixels: np.ndarray) -> None:
        """Rank 0, in the collector's thread: put frames [T H W C] of the whole picture into the log."""
        assert self.run is not None
        self.run.frames.append(pixels)
        if self.run.first_frame is None:
            self.run.first_frame = self.run.frames.times[0]
        self.run.change()

    def _latent_shape(self, step: Step) -> tuple[int, ...]:
        """B C T H W of the whole latent of one step."""
        shape = self.job.shape
        return 1, shape.num_channels, step.stop - step.start, shape.height, shape.width

    def _video_parts(self, steps: Iterator[Step]) -> Iterator[Tensor]:
        """Yield this rank's part of the input video for each step, [1 C T h w] in [-1, 1]."""
        config, shape = self.vae.config, self.job.shape
        scale = config.spatial_factor
        for step in steps:
            start = config.num_frames(step.start) if step.start else 0
            stop = config.num_frames(step.stop)
            whole = None
            if self.run is not None:
                assert self.run.source is not None
                whole = torch.from_numpy(self.run.source.read_seen(start, stop))
            pixels_shape = (stop - start, shape.height * scale, shape.width * scale, 3)
            dim = self.shard.dim - 2  # of T H W 3
            pixels = scatter(self.group, self.shard, whole, pixels_shape, torch.uint8, dim, scale)
            yield with_channels(from_uint8(pixels, self.vae.dtype), config.in_channels)

    def _latent_parts(self, steps: Iterator[Step]) -> Iterator[Tensor]:
        """Yield this rank's part of the raw latent for each step, [1 C T h w]."""
        for step in steps:
            if self.job.kind == JobKind.ROUNDTRIP:
                yield self._latents.pop(0)
                continue
            whole = None
            if self.run is not None:
                assert self.run.latent is not None
                whole = self.run.latent[:, :, step.start : step.stop]
            yield scatter(
                self.group, self.shard, whole, self._latent_shape(step), self.vae.dtype, self.shard.dim
            )


def _copy_to_host(x: Tensor) -> Tensor:
    """Copy a number to the host. It is there when the device has done its present work, which is not waited for."""
    if x.device.type == "cpu":
        return x
    return torch.empty((), dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
