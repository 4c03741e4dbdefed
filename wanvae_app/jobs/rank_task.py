"""Part: one rank's part in one job, its rows, its streams, and its messages to and from rank 0."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.jobs.job import Job, JobState, Step
from wanvae_app.model.pixels import from_uint8
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.gather import FrameCollector, FrameSender, gather, scatter, slab_shape
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard


@dataclass(frozen=True)
class Done:
    """A chunk that this rank has done: when it began, by the monotonic clock, how long it took, and how much of that
    this rank stood in exchanges; all in seconds."""

    step: Step
    start: float
    seconds: float
    wait_seconds: float


@dataclass(frozen=True)
class _Begun:
    """A chunk that is under way: what the device records when it is done, and how long it has waited by then."""

    step: Step
    time: float
    event: torch.cuda.Event | None
    waited: Callable[[], float]


class RankTask:
    """One rank's part in one job: its rows, its streams, and its messages to and from rank 0."""

    def __init__(self, group: Group, vae: WanVAE, job: Job, shard: Shard, run: JobState | None) -> None:
        self.group = group
        self.vae = vae
        self.job = job
        self.shard = shard
        self.run = run
        self._begun: _Begun | None = None
        self._last_end = 0.0
        self._waited = shard.seconds_waited
        self._latents: list[Tensor] = []  # this rank's, encoded and not yet decoded
        self._encodes = "encode" in job.phases  # there is still something to encode
        self._outbox = FrameSender(group) if run is None else FrameCollector(group, shard, self._deliver)
        steps = job.steps()
        encoder = encode_chunks(vae, self._source(s for s in steps if s.phase == "encode"), shard)
        decoder = decode_chunks(vae, self._latent(s for s in steps if s.phase == "decode"), shard)
        self._encoder = cast(Generator[Tensor], encoder)
        self._decoder = cast(Generator[Tensor], decoder)

    def goes_on(self) -> bool:
        """Whether the last clip left all the memory that this one takes (see `cuda_graph.py`); else that is freed."""
        shard, config, steps = self.shard, self.vae.config, self.job.steps()
        first = steps[0]
        shape, scale = self._latent_shape(first), 1
        lengths = [step.stop - step.start for step in steps if step.phase == first.phase]
        if first.phase == "encode":
            scale = config.spatial_factor
            shape = (1, 3, config.num_frames(shape[2]), shape[3] * scale, shape[4] * scale)
            lengths = [shape[2], *(config.temporal_factor * length for length in lengths[1:])]
        mine = slab_shape(shape, shard, shard.rank, shard.dim, scale)
        return self.vae.keeps_memory_for(first.phase, mine, shard, max(lengths))

    def take(self, step: Step) -> Done | None:
        """Begin one chunk, and wait for the one before: ranks agree on the next chunk while their devices work.

        Returns what is done now. On a CPU, and while there is more to encode, whose result goes through the host, that
        is the chunk itself.
        """
        begun = time.monotonic()
        if step.phase == "encode":
            latent = next(self._encoder)
            if step.stop == self.job.shape[1]:
                self._encoder.close()  # its memory is for the decoder now
                self._encodes = False
            self._latents.append(latent)
            wide = torch.promote_types(latent.dtype, torch.float32)
            whole = gather(self.group, self.shard, latent.to(wide), self._latent_shape(step), self.shard.dim)
            if self.run is not None:
                assert self.run.latent is not None and whole is not None
                self.run.latent[:, :, step.start : step.stop] = whole
        else:
            self._outbox.put(self.vae.to_uint8(next(self._decoder)))
        event = torch.cuda.current_stream().record_event() if self.group.device.type == "cuda" else None
        before, self._begun = self._begun, _Begun(step, begun, event, self.shard.note_wait())
        if event is None or step.phase == "encode" or self._encodes:
            return self._wait()
        done = self._wait_for(before)
        self._check()
        return done

    def finish(self) -> Done | None:
        """Wait until the last frames have left this rank, on rank 0 until they are all in the log."""
        self._outbox.finish()
        return self._wait()

    def _wait(self) -> Done | None:
        begun, self._begun = self._begun, None
        done = self._wait_for(begun)
        self._check()
        return done

    def _wait_for(self, begun: _Begun | None) -> Done | None:
        if begun is None:
            return None
        if begun.event is not None:
            begun.event.synchronize()  # what went wrong in the chunk shows here
        start, now, waited = max(begun.time, self._last_end), time.monotonic(), begun.waited()
        self._last_end, before, self._waited = now, self._waited, waited
        return Done(begun.step, start, now - start, waited - before)

    def _check(self) -> None:
        if self.group.broken:  # after an abort, messages return as if they had arrived
            raise RuntimeError("the connection to another rank was aborted")

    def let_go(self) -> None:
        """End the clip: free its streams. Generators and this object hold each other, so that nothing of this would
        happen by itself."""
        self._encoder.close()
        self._decoder.close()
        self._latents.clear()

    def abandon(self) -> None:
        """After a failure: forget the frames that are on their way. On rank 0, not before all ranks know of
        the failure: it waits until their groups are closed."""
        self._outbox.abandon()

    def _deliver(self, pixels: np.ndarray) -> None:
        assert self.run is not None
        self.run.frames.append(pixels)
        if self.run.first_frame is None:
            self.run.first_frame = self.run.frames.times[0]
        self.run.change()

    def _latent_shape(self, step: Step) -> tuple[int, ...]:
        channels, _, height, width = self.job.shape
        return 1, channels, step.stop - step.start, height, width

    def _source(self, steps: Iterator[Step]) -> Iterator[Tensor]:
        """This rank's rows of the video, [1 3 T h w] in [-1, 1], a chunk at a time."""
        config, (_, _, height, width) = self.vae.config, self.job.shape
        scale = config.spatial_factor
        for step in steps:
            start = config.num_frames(step.start) if step.start else 0
            stop = config.num_frames(step.stop)
            whole = None
            if self.run is not None:
                assert self.run.source is not None
                whole = torch.from_numpy(self.run.source.read(start, stop))
            shape = (stop - start, height * scale, width * scale, 3)
            pixels = scatter(self.group, self.shard, whole, shape, torch.uint8, self.shard.dim - 2, scale)
            yield from_uint8(pixels, self.vae.dtype)

    def _latent(self, steps: Iterator[Step]) -> Iterator[Tensor]:
        """This rank's rows of the raw latent, [1 C T h w], a chunk at a time."""
        for step in steps:
            if self.job.kind == "roundtrip":
                yield self._latents.pop(0)
                continue
            whole = None
            if self.run is not None:
                assert self.run.latent is not None
                whole = self.run.latent[:, :, step.start : step.stop]
            yield scatter(
                self.group, self.shard, whole, self._latent_shape(step), self.vae.dtype, self.shard.dim
            )
