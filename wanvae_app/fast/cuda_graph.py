"""GraphCoder: codes the chunks of a clip, and repeats a chunk of a known kind as one CUDA graph.

A chunk takes some 250 launches. With a slab of a small picture, a GPU finishes launches faster than Python makes them.
Recorded as a CUDA graph, a chunk is a single launch.

Chunks of one kind differ only in which slot of a pool holds which frame. So a recording looks its slots up in a list
on the device, and at its end reorders the list as the chunk has reordered the slots. The plain equal is the same chunk
without a recording.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.kernels.padded_frames import PaddedFramePool, Slots
from wanvae_app.parallel.shard import Shard

log = logging.getLogger(__name__)

MAX_TABLE = 4096  # slots that all layers together look up in one chunk

Code = Callable[[Tensor, FastClipState], Tensor]  # a VAE's `encode` or `decode`


class ChunkKind(NamedTuple):
    """What a recording depends on: chunks of one kind take the same launches."""

    first: bool  # whether the chunk is the clip's first
    shape: torch.Size


class GraphCoder:
    """Codes the chunks of one clip, and after `restart` those of another clip of the same size.

    `key` is equal for clips that may use a coder one after another. `longest` is the number of frames in the longest
    chunk so far. `records` tells whether chunks are still recorded.
    """

    def __init__(self, code: Code, state: FastClipState, key: tuple[Any, ...], device: torch.device) -> None:
        self.key = key
        self.longest = 0
        self.state = state
        self.records = device.type == "cuda"
        self._code = code
        self._recordings: dict[ChunkKind, Recording | None] = {}  # None: coded launch by launch so far
        self._slots: SlotOrder | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Code the next chunk x [B C T H W]; the result is the caller's to keep."""
        self.longest = max(self.longest, x.shape[2])
        kind = ChunkKind(self.state.first, x.shape)
        if self.records and kind in self._recordings:
            recording = self._recordings[kind] or self._record(kind, x)
            if recording is not None:
                self.state.first = False
                self.state.shard.sent_bytes += recording.sent_bytes
                return recording(x)
        if self._slots is not None:
            self._slots.to_host()
        before = [len(pool.data) for pool in self.state.pools]
        x = self._code(x, self.state)
        if before != [
            len(pool.data) for pool in self.state.pools
        ]:  # a pool has moved, so recordings are void
            self._recordings, self._slots = dict.fromkeys(self._recordings), None
        self._recordings.setdefault(kind)
        return x

    def restart(self, shard: Shard) -> None:
        """Begin the next clip; `shard` is cut as the last clip's."""
        self.state.restart(shard)
        if self._slots is not None:
            self._slots.restart()

    def _record(self, kind: ChunkKind, x: Tensor) -> Recording | None:
        """Record how a chunk of this kind is coded, without coding x; return None if that is not possible."""
        shard, pools = self.state.shard, self.state.pools
        if shard.num_ranks > 1 and shard.peer_memory is None:  # the host sends messages, and a graph cannot
            return None
        self._slots = self._slots or SlotOrder(pools, x.device)
        self._slots.to_host()
        before = [(pool.layers, pool.order) for pool in pools]
        try:
            recording = Recording(lambda x: self._code(x, self.state), x, self._slots, shard)
        except Exception as error:  # out of memory, or what cannot be recorded: launches work anyway
            log.warning("a step could not be recorded, and is taken launch by launch: %s", error)
            self.records = False
            self.state.first = kind.first
            for pool, (layers, order) in zip(pools, before, strict=True):
                pool.arrange(layers, order)
            return None
        self._recordings[kind] = recording
        return recording


class SlotOrder:
    """Which slot of each pool has which role, in a list that the device can reorder.

    The slots of all pools are numbered through: those of pool i begin at `starts[i]`. A slot's role is its index in the
    list. For each pool the list holds slot 0, the zeros, and then `PaddedFramePool.order`. The order is known either to
    the pools on the host, or to the device.
    """

    def __init__(self, pools: list[PaddedFramePool], device: torch.device) -> None:
        self.pools = pools
        counts = [len(pool.data) for pool in pools]
        self.starts = [sum(counts[:i]) for i in range(len(counts))]
        self.list = torch.zeros(sum(counts), dtype=torch.int64, device=device)
        self.memory = torch.cuda.graph_pool_handle()  # shared by all recordings that use this order
        self._layers: list[list[object]] | None = None  # of each pool; None while the host knows the order

    def order(self) -> list[int]:
        """Return the list as the pools have it."""
        pairs = zip(self.pools, self.starts, strict=True)
        return [start + slot for pool, start in pairs for slot in (0, *pool.order)]

    def layers(self) -> list[list[object]]:
        """Return, for each pool, the layers that have a past there, in order."""
        return [pool.layers for pool in self.pools]

    def to_device(self, layers: list[list[object]]) -> None:
        """Hand the order over to the device. After the chunk that it codes next, `layers` have a past."""
        if self._layers is None:
            self.list.copy_(torch.tensor(self.order()))
        self._layers = layers

    def rewind(self, layers: list[list[object]], order: list[int]) -> None:
        """Hand an order over to the device in which `layers` have a past."""
        self.list.copy_(torch.tensor(order))
        self._layers = layers

    def to_host(self) -> None:
        """Hand the order back to the pools. Waits for the device."""
        if self._layers is None:
            return
        slots = self.list.tolist()
        for pool, start, layers in zip(self.pools, self.starts, self._layers, strict=True):
            pool.arrange(layers, [slot - start for slot in slots[start + 1 : start + len(pool.data)]])
        self._layers = None

    def restart(self) -> None:
        """Forget the layers' pasts. Any order that holds every slot once is right then."""
        if self._layers is not None:
            self._layers = [[] for _ in self.pools]


class Recording:
    """The coding of one kind of chunk as a CUDA graph.

    `code` codes a chunk of the shape of x; it is recorded without being executed. `sent_bytes` is what the chunk sends
    to other ranks.
    """

    def __init__(self, code: Callable[[Tensor], Tensor], x: Tensor, slots: SlotOrder, shard: Shard) -> None:
        self._slots = slots
        self._graph = torch.cuda.CUDAGraph()
        self._x = torch.empty_like(x)
        layers, before, counted = slots.layers(), slots.order(), (shard.sent_bytes, shard.sequence)
        role = {slot: index for index, slot in enumerate(before)}
        # Filled after the recording: the roles that are looked up, where their pools begin, and the new order.
        roles, starts, order = (
            x.new_zeros(n, dtype=torch.int64) for n in (MAX_TABLE, MAX_TABLE, len(before))
        )
        looked_up: list[tuple[int, int]] = []

        def table(pool: PaddedFramePool, wanted: Slots) -> Tensor:
            begin, start = len(looked_up), slots.starts[slots.pools.index(pool)]
            looked_up.extend((role[start + slot], start) for slot in wanted)
            looked_up.extend([(0, 0)] * (-len(looked_up) % 4))  # kernels take tables aligned to 16 bytes
            assert len(looked_up) <= MAX_TABLE, len(looked_up)
            return tables[begin : begin + len(wanted)]

        tables_before = [pool.tables for pool in slots.pools]
        for pool in slots.pools:
            pool.tables = table
        try:
            # In "thread_local" mode other threads may copy frames and serve pages meanwhile, without being recorded.
            with torch.cuda.graph(self._graph, pool=slots.memory, capture_error_mode="thread_local"):
                tables = (slots.list[roles] - starts).int()
                self._out = code(self._x)
                slots.list.copy_(slots.list[order])
        finally:
            for pool, before_it in zip(slots.pools, tables_before, strict=True):
                pool.tables = before_it
            self.sent_bytes = shard.sent_bytes - counted[0]
            shard.sent_bytes, shard.sequence = counted
        self._layers = slots.layers()
        self._kept = roles, starts, order  # the graph reads them
        for values, into in zip(zip(*looked_up, strict=True), (roles, starts), strict=True):
            into[: len(values)] = torch.tensor(values)
        order.copy_(torch.tensor([role[slot] for slot in slots.order()]))
        slots.rewind(layers, before)  # because the chunk was recorded, not coded

    def __call__(self, x: Tensor) -> Tensor:
        """Code the chunk x."""
        self._slots.to_device(self._layers)
        self._x.copy_(x)
        self._graph.replay()
        return self._out.clone()
