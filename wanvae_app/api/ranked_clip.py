"""A clip through the VAE on all ranks: rank 0 has the input and yields the results, the others take part.

All ranks agree before each chunk, as in a job of the page (`jobs/worker.py`). So a failure on any rank ends the clip
on all of them, and so does rank 0 when it has seen enough.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor

from wanvae_app.api.clip_request import ClipRequest, as_model_input
from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.device import device_fault, tidy_up
from wanvae_app.errors import describe, forget
from wanvae_app.formats.latents import to_normalised
from wanvae_app.jobs.report import Verdict
from wanvae_app.jobs.worker import recovering
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.memory_estimate import Clip, free_bytes, refusal
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.gather import gather_on_device, scatter
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

log = logging.getLogger(__name__)


class RankedClip:
    """One rank's part in one clip. `chunks` are those of the whole input on rank 0, None on the others."""

    def __init__(
        self, group: Group, vae: WanVAE, request: ClipRequest, chunks: Iterator[Tensor] | None
    ) -> None:
        self.group, self.vae, self.request = group, vae, request
        self.chunks = chunks
        self.next_input: Tensor | None = None  # the next chunk of the whole input, on rank 0
        self.next_length = 0  # its latent frames, on all ranks; 0 after the last chunk
        height, width = request.height, request.width
        # None for a rank that owns no part of the picture: it only agrees with the others.
        self.shard = Shard.plan(height, width, group.size, group.rank, group.data, group.peer_memory)
        rows = 1 if request.result == "uint8" else 3  # of T H W C, or of B C T H W
        self.result_dim = rows + (self.shard is not None and self.shard.columns)
        self.result: Tensor | None = None  # of the last chunk, on rank 0, until it is yielded
        self.results: Generator[Tensor] | None = None
        if self.shard is not None:
            code = decode_chunks if request.phase == "decode" else encode_chunks
            self.results = cast("Generator[Tensor]", code(vae, self._input_parts(self.shard), self.shard))

    def run(self) -> Iterator[Tensor]:
        """Yield each chunk's whole result on rank 0; yield nothing on the others, and return when rank 0 has ended.

        All ranks call this. Raises MemoryError, on all ranks alike, if a rank lacks memory for the clip, and
        RuntimeError with a rank's reason if it failed. Closing it on rank 0 ends the clip on all ranks.
        """
        self.group.begin_job()
        try:
            yield from self._chunks()
        finally:
            self.group.end_job()

    def _chunks(self) -> Iterator[Tensor]:
        self._make_ready()
        verdict = Verdict.GO
        try:
            for index in itertools.count():
                if verdict == Verdict.GO and not self._try(index, self._read_next):
                    verdict = Verdict.FAILED
                if self._agree(verdict) != Verdict.GO or not self.next_length:
                    return
                if not self._try(index, self._code_next):
                    verdict = Verdict.FAILED
                result, self.result = self.result, None
                if result is not None:
                    yield result
                    del result
        except GeneratorExit:  # on rank 0 only: the others yield nothing
            self._agree(Verdict.STOP)
            raise
        finally:
            if self.results is not None:
                self.results.close()  # frees the clip's memory: this object and the generator hold each other
            self.chunks = self.next_input = None

    def _try(self, index: int, step: Callable[[int], None]) -> bool:
        """Take a step of a chunk; return whether it succeeded. The other ranks hear of it if it did not."""
        try:
            step(index)
        except Exception as error:
            if self.group.size == 1:
                self.vae.release()
                raise
            self._fail(index, error)
            return False
        return True

    def _read_next(self, index: int) -> None:
        """Rank 0: take the next chunk of the input."""
        if self.chunks is None:
            return
        self.next_input = next(self.chunks, None)
        self.next_length = 0
        if self.next_input is not None:
            length = self.next_input.shape[2]
            is_encoded = self.request.phase == "encode" and index > 0
            self.next_length = length // self.vae.config.temporal_factor if is_encoded else length

    def _agree(self, verdict: Verdict) -> Verdict:
        """Return the verdict that all ranks follow, and take the next chunk's length from rank 0.

        Raises RuntimeError, on all ranks, with why one has failed.
        """
        reports = self.group.agree([float(verdict), float(self.next_length)])
        agreed = Verdict(int(max(value for value, _ in reports)))
        self.next_length = int(reports[0][1])
        if agreed != Verdict.FAILED:
            return agreed
        reason = self.group.failure_reason()
        with recovering(self.group, "the last chunk"):
            if self.results is not None:
                self.results.close()
            self.group.rebuild()  # after it, no rank waits for another
            self.vae.release()
            tidy_up(self.group.device)
        raise RuntimeError(reason)

    def _code_next(self, index: int) -> None:
        """Code the next chunk; its whole result is `result` on rank 0."""
        request, shard, config = self.request, self.shard, self.vae.config
        if shard is None or self.results is None:
            return
        where = f"{request.phase[:-1]}ing chunk {index + 1}"
        with on_device(self.group.device), self._watched(where, self.next_length):
            part = self._finish(next(self.results))
            scale = request.output_scale(config)
            shape = list(part.shape)
            shape[self.result_dim] = shard.bounds[-1] * scale
            whole = gather_on_device(self.group, shard, part, tuple(shape), self.result_dim, scale)
        if self.group.broken:  # exchanges that were aborted return as if the tensors had arrived
            raise RuntimeError("the connection to another rank was aborted")
        self.result = whole

    def _finish(self, result: Tensor) -> Tensor:
        """Make of a chunk's frames or raw latents B C T H W what was asked for."""
        if self.request.result == "uint8":
            return self.vae.to_uint8(result)
        if self.request.phase == "decode":
            return result
        z = result.to(torch.promote_types(result.dtype, torch.float32))
        return to_normalised(z, self.vae.config) if self.request.result == "normalised" else z

    def _fail(self, index: int, error: Exception) -> None:
        """Tell the other ranks that this one has failed, and free those that wait for it."""
        reason = f"Rank {self.group.rank} failed at chunk {index + 1}: {describe(error)}"
        if fault := device_fault(self.group.device):
            raise self.group.lose_device(f"rank {self.group.rank} lost its GPU ({fault})") from error
        self.group.announce_failure(reason)
        log.warning("%s", reason, exc_info=log.isEnabledFor(logging.DEBUG))
        with recovering(self.group, f"chunk {index + 1}"):
            assert self.results is not None
            self.results.close()
            forget(error)
            self.group.drop()

    def _input_parts(self, shard: Shard) -> Iterator[Tensor]:
        """Yield this rank's part of each chunk of the input, in the VAE's dtype."""
        request, config, is_first = self.request, self.vae.config, True
        while True:
            whole, self.next_input = self.next_input, None
            if whole is not None:
                whole = as_model_input(whole.to(self.group.device), self.vae.dtype)
            shape = request.input_shape(self.next_length, is_first, config)
            is_first = False
            yield scatter(
                self.group, shard, whole, shape, self.vae.dtype, shard.dim, request.input_scale(config)
            )

    def _make_ready(self) -> None:
        """Take the path for whose memory all ranks have room."""
        vae, shard, group = self.vae, self.shard, self.group
        vae.take_path(vae.path)
        fits = False
        if shard is None:
            vae.release()
        else:
            first = self.request.input_shape(1, True, vae.config)
            mine = shard.part_shape(first, self.request.input_scale(vae.config))
            is_picture = self.request.num_latents == 1
            longest = self.request.input_shape(self.request.longest_chunk, is_picture, vae.config)[2]
            fits = vae.keeps_memory_for(self.request.phase, mine, shard, longest)
        reason = "" if fits else self._memory_refusal(vae.path)
        if not group.holds_on_all_ranks(not reason):
            self._take_smaller_path(reason)
        if group.peer_memory is not None:
            chunk = (self.request.chunk, self.request.height, self.request.width)
            group.peer_memory.reserve_tokens(vae.config, chunk, vae.dtype)

    def _take_smaller_path(self, reason: str) -> None:
        """Take a path that needs less memory than the VAE's own, as jobs do. Raises MemoryError if none fits.

        `reason` says why this rank lacks memory for the VAE's own path, "" if it does not.
        """
        own = self.vae.path
        smaller = [] if own.kernels is None else [own._replace(frames_at_once=2), PLAIN]
        for path in smaller:
            if self.group.holds_on_all_ranks(not self._memory_refusal(path)):
                self.vae.take_path(path)
                if self.group.rank == 0:
                    what = (
                        "plain PyTorch codes this clip" if path is PLAIN else "two frames at a time are coded"
                    )
                    log.warning("The path %s needs more memory than is free, so %s.", own.name, what)
                return
        raise MemoryError(next(filter(None, self.group.share(reason))))

    def _memory_refusal(self, path: CodePath) -> str:
        """Return why this rank's part of the clip does not fit into its memory on a path; "" if it does."""
        if self.shard is None:
            return ""
        request, vae, group = self.request, self.vae, self.group
        num_latents = request.num_latents or 1 + 2 * request.chunk  # later chunks need no more memory
        sizes = (num_latents, request.height, request.width, request.chunk)
        clip = Clip(vae.config, *sizes, vae.dtype, group.device, path)
        return refusal(clip, (request.phase,), group.size, group.rank, free_bytes(group.device))

    def _watched(self, where: str, num_latents: int) -> AbstractContextManager[None]:
        """Mark one chunk for the watchdog; see `Watchdog.working`."""
        watchdog = self.group.watchdog
        return watchdog.working(where, num_latents) if watchdog is not None else nullcontext()


def on_device(device: torch.device) -> AbstractContextManager[None]:
    """Make a GPU the current one: kernels start on that."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
