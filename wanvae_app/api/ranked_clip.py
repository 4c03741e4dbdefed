"""A clip through the VAE on all ranks: rank 0 has the input and yields the results, the others take part.

All ranks agree before each chunk, as in a job of the page (`jobs/worker.py`). So a failure on any rank ends the clip
on all of them, and so does rank 0 when it has seen enough.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
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
    """One rank's part in one clip. `clip` is the whole input on rank 0, None on the others."""

    def __init__(self, group: Group, vae: WanVAE, request: ClipRequest, clip: Tensor | None) -> None:
        self.group, self.vae, self.request, self.clip = group, vae, request, clip
        height, width = request.height, request.width
        # None for a rank that owns no part of the picture: it only agrees with the others.
        self.shard = Shard.plan(height, width, group.size, group.rank, group.data, group.peer_memory)
        rows = 1 if request.result == "uint8" else 3  # of T H W C, or of B C T H W
        self.result_dim = rows + (self.shard is not None and self.shard.columns)
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
        failed = False
        try:
            for index in range(len(self.request.chunks)):
                if self._agree(Verdict.FAILED if failed else Verdict.GO) != Verdict.GO:
                    break
                try:
                    result = self._code_next(index)
                except Exception as error:
                    if self.group.size == 1:
                        self.vae.release()
                        raise
                    failed, result = True, None
                    self._fail(index, error)
                if result is not None:
                    yield result
            else:
                self._agree(Verdict.FAILED if failed else Verdict.GO)
        except GeneratorExit:  # on rank 0 only: the others yield nothing
            self._agree(Verdict.STOP)
            raise
        finally:
            if self.results is not None:
                self.results.close()  # frees the clip's memory: this object and the generator hold each other
            self.clip = None

    def _agree(self, verdict: Verdict) -> Verdict:
        """Return the verdict that all ranks follow. Raises RuntimeError, on all ranks, with why one has failed."""
        agreed = Verdict(int(max(value for (value,) in self.group.agree([float(verdict)]))))
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

    def _code_next(self, index: int) -> Tensor | None:
        """Code the next chunk; return its whole result on rank 0, None on the others."""
        request, shard, config = self.request, self.shard, self.vae.config
        if shard is None or self.results is None:
            return None
        where = f"{request.phase[:-1]}ing chunk {index + 1}"
        with on_device(self.group.device), self._watched(where, request.chunks[index]):
            part = self._finish(next(self.results))
            scale = request.output_scale(config)
            shape = list(part.shape)
            shape[self.result_dim] = shard.bounds[-1] * scale
            whole = gather_on_device(self.group, shard, part, tuple(shape), self.result_dim, scale)
        if self.group.broken:  # exchanges that were aborted return as if the tensors had arrived
            raise RuntimeError("the connection to another rank was aborted")
        return whole

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
        config, start = self.vae.config, 0
        scale = self.request.input_scale(config)
        for shape in self.request.input_shapes(config):
            whole = None
            if self.clip is not None:
                whole = self.clip[:, :, start : start + shape[2]].to(self.group.device)
                whole = as_model_input(whole, self.vae.dtype)
            start += shape[2]
            yield scatter(self.group, shard, whole, shape, self.vae.dtype, shard.dim, scale)

    def _make_ready(self) -> None:
        """Take the path for whose memory all ranks have room."""
        vae, shard, group = self.vae, self.shard, self.group
        vae.take_path(vae.path)
        fits = False
        if shard is None:
            vae.release()
        else:
            shapes = self.request.input_shapes(vae.config)
            mine = shard.part_shape(shapes[0], self.request.input_scale(vae.config))
            longest = max(shape[2] for shape in shapes)
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
        sizes = (request.num_latents, request.height, request.width, request.chunk)
        clip = Clip(vae.config, *sizes, vae.dtype, group.device, path)
        return refusal(clip, (request.phase,), group.size, group.rank, free_bytes(group.device))

    def _watched(self, where: str, num_latents: int) -> AbstractContextManager[None]:
        """Mark one chunk for the watchdog; see `Watchdog.working`."""
        watchdog = self.group.watchdog
        return watchdog.working(where, num_latents) if watchdog is not None else nullcontext()


def on_device(device: torch.device) -> AbstractContextManager[None]:
    """Make a GPU the current one: kernels start on that."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
