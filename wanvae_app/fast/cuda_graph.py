"""GraphCoder: the steps of a clip, which a GPU repeats from the second time on as one CUDA graph each.

A chunk is some 250 launches, and a GPU that has a slab of a small picture is done with them before Python has made
them. Recorded once, they are one launch. What differs from chunk to chunk is only which slot of a pool holds which
frame: a recording therefore looks its slots up in a list that the device keeps, and reorders the list at its end as
the chunk has done it. The plain equal is the same step without a recording.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.kernels.padded_frames import PaddedFramePool, Slots
from wanvae_app.parallel.shard import Shard

log = logging.getLogger(__name__)

MAX_TABLE = 4096  # slots that one chunk looks up, all its layers together

Code = Callable[[Tensor, FastClipState], Tensor]  # a VAE's `encode` or `decode`
Step = tuple[
    bool, torch.Size
]  # what a recording depends on: whether the chunk is the clip's first, and its shape


class GraphCoder:
    """Codes the chunks of one clip, and after `restart` those of another of the same size.

    `key` says what clips have in common that may use it one after another.
    """

    def __init__(self, code: Code, state: FastClipState, key: tuple[Any, ...], device: torch.device) -> None:
        self.key = key
        self.longest = 0  # frames of a chunk, so far
        self.state = state
        self.records = device.type == "cuda"
        self._code = code
        self._recordings: dict[Step, Recording | None] = {}  # None for a step that was taken launch by launch
        self._slots: SlotOrder | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Code the next chunk, on the device; the result is the caller's."""
        self.longest = max(self.longest, x.shape[2])
        step = (self.state.first, x.shape)
        if self.records and step in self._recordings:
            recording = self._recordings[step] or self._record(step, x)
            if recording is not None:
                self.state.first = False
                self.state.shard.sent_bytes += recording.sent
                return recording(x)
        if self._slots is not None:
            self._slots.to_host()
        before = [len(pool.data) for pool in self.state.pools]
        x = self._code(x, self.state)
        if before != [len(pool.data) for pool in self.state.pools]:  # frames are elsewhere now
            self._recordings, self._slots = dict.fromkeys(self._recordings), None
        self._recordings.setdefault(step)
        return x

    def restart(self, shard: Shard) -> None:
        """Begin the next clip; `shard` cuts as the last one did."""
        self.state.restart(shard)
        if self._slots is not None:
            self._slots.restart()

    def _record(self, step: Step, x: Tensor) -> Recording | None:
        shard, pools = self.state.shard, self.state.pools
        if shard.num_ranks > 1 and shard.peer_memory is None:  # messages are made by the host
            return None
        self._slots = self._slots or SlotOrder(pools, x.device)
        self._slots.to_host()
        before = [(pool.layers, pool.order) for pool in pools]
        try:
            recording = Recording(lambda x: self._code(x, self.state), x, self._slots, shard)
        except Exception as error:  # out of memory, or what cannot be recorded: there is another way
            log.warning("a step could not be recorded, and is taken launch by launch: %s", error)
            self.records = False
            self.state.first, _ = step
            for pool, (layers, order) in zip(pools, before, strict=True):
                pool.arrange(layers, order)
            return None
        self._recordings[step] = recording
        return recording


class SlotOrder:
    """Which slot of each pool has which role, in a list that the device can reorder.

    All pools' slots are numbered on: those of pool i begin at `starts[i]`. What `PaddedFramePool.order` has at some
    place the list has there; each pool's zeros come first. Either the pools know, or the device does.
    """

    def __init__(self, pools: list[PaddedFramePool], device: torch.device) -> None:
        self.pools = pools
        counts = [len(pool.data) for pool in pools]
        self.starts = [sum(counts[:i]) for i in range(len(counts))]
        self.list = torch.zeros(sum(counts), dtype=torch.int64, device=device)
        self.memory = torch.cuda.graph_pool_handle()  # of all recordings that use this
        self._layers: list[list[object]] | None = None  # the pools', where it is the device that knows

    def order(self) -> list[int]:
        """The list as the pools have it."""
        pairs = zip(self.pools, self.starts, strict=True)
        return [start + slot for pool, start in pairs for slot in (0, *pool.order)]

    def layers(self) -> list[list[object]]:
        """The layers whose pasts the pools have, in order."""
        return [pool.layers for pool in self.pools]

    def to_device(self, layers: list[list[object]]) -> None:
        """Hand the order over to the device; the step that it takes next leaves `layers` with a past."""
        if self._layers is None:
            self.list.copy_(torch.tensor(self.order()))
        self._layers = layers

    def rewind(self, layers: list[list[object]], order: list[int]) -> None:
        """Hand over to the device, with these layers and this order."""
        self.list.copy_(torch.tensor(order))
        self._layers = layers

    def to_host(self) -> None:
        """Hand the order back to the pools; waits for the device."""
        if self._layers is None:
            return
        slots = self.list.tolist()
        for pool, start, layers in zip(self.pools, self.starts, self._layers, strict=True):
            pool.arrange(layers, [slot - start for slot in slots[start + 1 : start + len(pool.data)]])
        self._layers = None

    def restart(self) -> None:
        """Forget the layers' pasts. Any order will do then that has every slot once."""
        if self._layers is not None:
            self._layers = [[] for _ in self.pools]


class Recording:
    """One step of a clip as a CUDA graph."""

    def __init__(self, step: Callable[[Tensor], Tensor], x: Tensor, slots: SlotOrder, shard: Shard) -> None:
        self._slots = slots
        self._graph = torch.cuda.CUDAGraph()
        self._x = torch.empty_like(x)
        layers, before, counted = slots.layers(), slots.order(), (shard.sent_bytes, shard.sequence)
        role = {slot: place for place, slot in enumerate(before)}
        # Filled afterwards: the roles that are looked up, where their pools begin, and the new order.
        roles, starts, order = (
            x.new_zeros(n, dtype=torch.int64) for n in (MAX_TABLE, MAX_TABLE, len(before))
        )
        looked_up: list[tuple[int, int]] = []

        def table(pool: PaddedFramePool, wanted: Slots) -> Tensor:
            begin, start = len(looked_up), slots.starts[slots.pools.index(pool)]
            looked_up.extend((role[start + slot], start) for slot in wanted)
            looked_up.extend([(0, 0)] * (-len(looked_up) % 4))  # kernels know that a table begins at 16 bytes
            assert len(looked_up) <= MAX_TABLE, len(looked_up)
            return tables[begin : begin + len(wanted)]

        tables_before = [pool.tables for pool in slots.pools]
        for pool in slots.pools:
            pool.tables = table
        try:
            # Other threads copy frames and serve pages meanwhile; what they do is not recorded, and may be anything.
            with torch.cuda.graph(self._graph, pool=slots.memory, capture_error_mode="thread_local"):
                tables = (slots.list[roles] - starts).int()
                self._out = step(self._x)
                slots.list.copy_(slots.list[order])
        finally:
            for pool, before_it in zip(slots.pools, tables_before, strict=True):
                pool.tables = before_it
            self.sent = shard.sent_bytes - counted[0]  # bytes to other ranks
            shard.sent_bytes, shard.sequence = counted
        self._layers = slots.layers()
        self._reads = roles, starts, order  # kept because the graph reads them
        for values, into in zip(zip(*looked_up, strict=True), (roles, starts), strict=True):
            into[: len(values)] = torch.tensor(values)
        order.copy_(torch.tensor([role[slot] for slot in slots.order()]))
        slots.rewind(layers, before)  # nothing of all this was done yet

    def __call__(self, x: Tensor) -> Tensor:
        """Take the step with x in place of what it was recorded with."""
        self._slots.to_device(self._layers)
        self._x.copy_(x)
        self._graph.replay()
        return self._out.clone()
