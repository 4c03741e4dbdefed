"""Finished frames on their way to rank 0, while all ranks work on the next chunk.

A chunk's frames are uint8 pixels [T, H, W, C], of which each rank has the rows or columns of its slab.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

MAX_PENDING = 2  # chunks that may be on their way before the next one has to wait


class FrameSender:
    """Ranks other than 0: sends finished pixels to rank 0."""

    def __init__(self, group: Group) -> None:
        self._group = group
        # The tensors must live until they are sent.
        self._pending: list[tuple[list[dist.Work], Tensor]] = []

    def put(self, pixels: Tensor) -> None:
        """Send pixels [T, h, w, C], this rank's part of one chunk. Waits if MAX_PENDING chunks are not sent yet."""
        if len(self._pending) == MAX_PENDING:
            self._wait_for_oldest()
        assert self._group.frames is not None
        works = self._group.frames.start([(pixels, 0)], [])
        self._pending.append((works, pixels))

    def finish(self) -> None:
        """Wait until all pixels are sent. Over NCCL only the device waits."""
        while self._pending:
            self._wait_for_oldest()

    def abandon(self) -> None:
        """Forget what is on its way, after a failure."""
        self._pending.clear()

    def _wait_for_oldest(self) -> None:
        works, _ = self._pending[0]
        with self._group.waiting():
            for work in works:
                work.wait()
        del self._pending[0]


@dataclass
class _Chunk:
    """One chunk of frames on its way."""

    works: list[dist.Work]  # the receives
    parts: list[Tensor]  # by rank: pixels that the receives fill, and rank 0's own
    ready: torch.cuda.Event | None  # when rank 0's own pixels are computed; None on a CPU


class FrameCollector:
    """Rank 0: receives all ranks' pixels and delivers whole frames, in a thread of its own.

    `deliver` gets uint8 pixels [T, H, W, C] of the whole picture, chunk after chunk.
    """

    def __init__(self, group: Group, shard: Shard, deliver: Callable[[np.ndarray], None]) -> None:
        self._group = group
        self._shard = shard
        self._deliver = deliver
        self._error: Exception | None = None
        self._chunks: queue.Queue[_Chunk | None] = queue.Queue(MAX_PENDING)  # None: no more
        cuda = group.device.type == "cuda"
        self._stream = torch.cuda.Stream(group.device) if cuda else None
        self._thread = threading.Thread(target=self._loop, name="frames", daemon=True)
        self._thread.start()

    def put(self, pixels: Tensor) -> None:
        """Start to receive one chunk, of which `pixels` [T, h, w, C] are rank 0's part.

        Waits if MAX_PENDING chunks are not delivered yet. Raises RuntimeError if delivering an earlier one failed.
        """
        self._check()
        shard, dim = self._shard, self._shard.dim - 2  # of T H W C
        scale = pixels.shape[dim] // shard.num_rows(0)
        shape, others = tuple(pixels.shape), range(1, shard.num_ranks)
        parts = [pixels, *(pixels.new_empty(shard.part_shape(shape, scale, dim, rank)) for rank in others)]
        works: list[dist.Work] = []
        if shard.num_ranks > 1:
            assert self._group.frames is not None
            works = self._group.frames.start([], [(parts[rank], rank) for rank in others])
        ready = torch.cuda.current_stream().record_event() if self._stream is not None else None
        self._enqueue(_Chunk(works, parts, ready))

    def finish(self) -> None:
        """Wait until all frames are delivered, and end the thread. Raises RuntimeError if delivering failed."""
        self._enqueue(None)
        with self._group.waiting():
            self._thread.join()
        self._check()

    def abandon(self) -> None:
        """End the thread after a failure. Receives that block it must have been aborted."""
        self._error = self._error or RuntimeError("abandoned")
        while self._thread.is_alive():
            try:
                self._chunks.put(None, timeout=0.1)
            except queue.Full:
                continue
            self._thread.join(0.1)
        self._error = None  # it holds the receives

    def _enqueue(self, chunk: _Chunk | None) -> None:
        while True:
            self._check()
            try:
                with self._group.waiting():
                    self._chunks.put(chunk, timeout=0.5)
                return
            except queue.Full:
                continue

    def _check(self) -> None:
        """Raise RuntimeError if delivering a chunk failed."""
        if self._error is not None:
            raise RuntimeError(f"receiving frames failed: {self._error}")

    def _loop(self) -> None:
        """Deliver chunks, in the collector's thread, until None comes; after a failure skip them."""
        while (chunk := self._chunks.get()) is not None:
            if self._error is None:
                try:
                    self._deliver(self._assemble(chunk))
                except Exception as error:
                    self._error = error.with_traceback(None)
            del chunk

    def _assemble(self, chunk: _Chunk) -> np.ndarray:
        """Return the whole frames of a chunk once they have arrived, on the host."""
        dim = self._shard.dim - 2  # of T H W C
        if self._stream is None:
            for work in chunk.works:
                work.wait()
            # NumPy, because PyTorch would start a second team of threads beside the one that decodes.
            return np.concatenate([part.numpy() for part in chunk.parts], dim)
        # In a stream of its own, so that the copy to the host overlaps with the next chunk.
        with torch.cuda.stream(self._stream):
            for work in chunk.works:
                work.wait()
            if chunk.ready is not None:
                self._stream.wait_event(chunk.ready)
            length = sum(part.shape[dim] for part in chunk.parts)
            shape = [length if i == dim else n for i, n in enumerate(chunk.parts[0].shape)]
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            for index, frame in enumerate(
                pixels
            ):  # one by one: the device holds no second copy of all frames
                whole = torch.cat([part[index] for part in chunk.parts], dim - 1)
                frame.copy_(whole, non_blocking=True)
            self._stream.synchronize()
        if self._group.broken:  # an aborted receive returns as if the pixels had arrived
            raise RuntimeError("the connection was aborted")
        return pixels.numpy()
