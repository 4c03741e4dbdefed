"""What travels between rank 0 and the others: slabs out, latents back, finished frames while work goes on.

Sizes are known on every rank from the shard, so nothing but the data is sent. In pixels [T, H, W, 3] the
shard's rows lie along dimension `shard.dim - 2`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from wanvae_app.parallel.messages import Message
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

MAX_PENDING = 2  # chunks of finished frames that may be on their way before the next chunk has to wait


def slab(x: Tensor, shard: Shard, rank: int, dim: int, scale: int) -> Tensor:
    """The part of `rank` in a whole tensor with `scale` rows per latent row along `dim` (a view)."""
    begin, end = shard.bounds[rank] * scale, shard.bounds[rank + 1] * scale
    return x.narrow(dim, begin, end - begin)


def slab_shape(shape: tuple[int, ...], shard: Shard, rank: int, dim: int, scale: int) -> list[int]:
    """The shape of that part, for a whole tensor of `shape`."""
    rows = (shard.bounds[rank + 1] - shard.bounds[rank]) * scale
    return [rows if i == dim else n for i, n in enumerate(shape)]


def scatter(
    group: Group,
    shard: Shard,
    whole: Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    dim: int,
    scale: int = 1,
) -> Tensor:
    """This rank's slab of rank 0's `whole` tensor of `shape`, on this rank's device; the others pass None."""
    if shard.rank == 0:
        assert whole is not None and tuple(whole.shape) == tuple(shape), shape
        parts = [
            _to_device(slab(whole, shard, rank, dim, scale).to(dtype).contiguous(), group.device)
            for rank in range(shard.num_ranks)
        ]
        _exchange(group, [(part, rank) for rank, part in enumerate(parts) if rank], [])
        return parts[0]
    mine = torch.empty(slab_shape(shape, shard, shard.rank, dim, scale), dtype=dtype, device=group.device)
    _exchange(group, [], [(mine, 0)])
    return mine


def _to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on the device, where it may still be arriving: from pinned memory a copy does not wait for earlier work."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def gather(group: Group, shard: Shard, mine: Tensor, shape: tuple[int, ...], dim: int) -> Tensor | None:
    """The whole tensor of `shape` on rank 0, on the CPU, from everybody's slab `mine`; None on the others."""
    if shard.rank > 0:
        _exchange(group, [(mine.contiguous(), 0)], [])
        return None
    parts = [mine]
    for rank in range(1, shard.num_ranks):
        parts.append(mine.new_empty(slab_shape(shape, shard, rank, dim, 1)))
    _exchange(group, [], [(part, rank) for rank, part in enumerate(parts) if rank])
    return torch.cat(parts, dim).cpu()


class FrameSender:
    """Ranks other than 0: sends finished pixels to rank 0, without waiting for them to arrive."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._pending: list[tuple[list[dist.Work], Tensor]] = []  # the tensors must live until they are sent

    def put(self, pixels: Tensor) -> None:
        """Send pixels [T, h, w, 3], this rank's rows of one chunk."""
        if len(self._pending) == MAX_PENDING:
            self._wait_first()
        assert self._group.frames is not None
        works = self._group.frames.start([(pixels, 0)], [])
        self._pending.append((works, pixels))

    def finish(self) -> None:
        """Wait until all is sent; over NCCL, it is the device that waits."""
        while self._pending:
            self._wait_first()

    def abandon(self) -> None:
        """Forget what is on its way, after a failure."""
        self._pending.clear()

    def _wait_first(self) -> None:
        works, _ = self._pending[0]
        with self._group.waiting():
            for work in works:
                work.wait()
        del self._pending[0]


class FrameCollector:
    """Rank 0: receives everybody's pixels and delivers whole frames, in a thread of its own."""

    def __init__(self, group: Group, shard: Shard, deliver: Callable[[np.ndarray], None]) -> None:
        self._group = group
        self._shard = shard
        self._deliver = deliver
        self._error: Exception | None = None
        self._waiting: queue.Queue[_Chunk | None] = queue.Queue(MAX_PENDING)
        cuda = group.device.type == "cuda"
        self._stream = torch.cuda.Stream(group.device) if cuda else None
        self._thread = threading.Thread(target=self._loop, name="frames", daemon=True)
        self._thread.start()

    def put(self, pixels: Tensor) -> None:
        """Post the receives for one chunk; `pixels` [T, h, w, 3] are rank 0's own."""
        self._check()
        shard, dim = self._shard, self._shard.dim - 2
        rows = shard.bounds[1] - shard.bounds[0]
        scale = pixels.shape[dim] // rows
        parts = [pixels]
        for rank in range(1, shard.num_ranks):
            parts.append(pixels.new_empty(slab_shape(tuple(pixels.shape), shard, rank, dim, scale)))
        works: list[dist.Work] = []
        if len(parts) > 1:
            assert self._group.frames is not None
            works = self._group.frames.start([], [(part, rank) for rank, part in enumerate(parts) if rank])
        ready = torch.cuda.current_stream().record_event() if self._stream is not None else None
        self._enqueue(_Chunk(works, parts, ready))

    def finish(self) -> None:
        """Wait until all frames are delivered, and end the thread. Raises what went wrong in it."""
        self._enqueue(None)
        with self._group.waiting():
            self._thread.join()
        self._check()

    def abandon(self) -> None:
        """End the thread after a failure; blocked receives must have been broken off."""
        self._error = self._error or RuntimeError("abandoned")
        while self._thread.is_alive():
            try:
                self._waiting.put(None, timeout=0.1)
            except queue.Full:
                continue
            self._thread.join(0.1)
        self._error = None  # it holds on to the receives

    def _enqueue(self, item: _Chunk | None) -> None:
        while True:
            self._check()
            try:
                with self._group.waiting():
                    self._waiting.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"receiving frames failed: {self._error}")

    def _loop(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            if self._error is not None:
                continue  # until the None comes
            try:
                self._deliver(self._assemble(chunk))
            except Exception as error:
                self._error = error.with_traceback(None)
            del chunk

    def _assemble(self, chunk: _Chunk) -> np.ndarray:
        dim = self._shard.dim - 2
        if self._stream is None:
            for work in chunk.works:
                work.wait()
            # NumPy, because torch would set a second team of threads against the one that decodes.
            return np.concatenate([part.numpy() for part in chunk.parts], dim)
        # A stream beside the one that decodes: the copy to the host overlaps with the next chunk.
        with torch.cuda.stream(self._stream):
            for work in chunk.works:
                work.wait()
            if chunk.ready is not None:
                self._stream.wait_event(chunk.ready)
            length = sum(part.shape[dim] for part in chunk.parts)
            shape = [length if i == dim else n for i, n in enumerate(chunk.parts[0].shape)]
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            for index, frame in enumerate(pixels):  # one at a time: the device holds no second copy of all
                whole = torch.cat([part[index] for part in chunk.parts], dim - 1)
                frame.copy_(whole, non_blocking=True)
            self._stream.synchronize()
        if self._group.broken:  # an aborted receive returns as if it had succeeded
            raise RuntimeError("the connection was aborted")
        return pixels.numpy()


class _Chunk:
    """One chunk of frames on its way: receives, the tensors they fill, and when rank 0's own are there."""

    def __init__(self, works: list[dist.Work], parts: list[Tensor], ready: torch.cuda.Event | None) -> None:
        self.works = works
        self.parts = parts
        self.ready = ready


def _exchange(group: Group, sends: list[Message], receives: list[Message]) -> None:
    if sends or receives:  # a rank alone has no connections
        assert group.data is not None
        group.data.exchange(sends, receives)
