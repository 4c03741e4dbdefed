"""Coder: a clip's steps, which a GPU repeats from the second time on as one CUDA graph each.

A chunk is some 250 launches, and a GPU that has a slab of a small picture is done with them before Python has made
them. Recorded once, they are one launch. What differs from chunk to chunk is only which slot of a pool holds which
frame: a recording therefore looks its slots up in a list that the device keeps, and reorders the list at its end as
the chunk has done it. The plain equal is the same step without a recording.

    with borrowed(vae, "decode", shard, x) as coder:
        for x in chunks:
            frames = coder(x)
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from wanvae_app.fast import layers as fused
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.shard import Shard

log = logging.getLogger(__name__)

MAX_TABLE = 4096  # slots that one chunk looks up, all its layers together

# What the next clip of the same size can go on with.
_idle: WeakKeyDictionary[WanVAE, Coder] = WeakKeyDictionary()


class Coder:
    """Codes the chunks of one clip, and after `restart` those of another of the same size."""

    def __init__(self, vae: WanVAE, kind: str, key: tuple[Any, ...], shard: Shard) -> None:
        self.key = key
        self.longest = 0  # frames of a chunk, so far
        self.state = ClipState(shard)
        self._vae = weakref.ref(vae)
        self._kind = kind
        self.records = vae.device.type == "cuda" and fused.runs_on(vae.device, vae.dtype)
        # By what a step begins with and gets; None for one that was taken launch by launch.
        self._recordings: dict[tuple[bool, torch.Size], Recording | None] = {}
        self._slots: SlotOrder | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The next chunk, on the device, coded; the result is the caller's."""
        self.longest = max(self.longest, x.shape[2])
        step = (self.state.first, x.shape)
        if self.records and step in self._recordings:
            recording = self._recordings[step] or self._record(step, x)
            if recording is not None:
                self.state.first = False
                self.state.shard.sent += recording.sent
                return recording(x)
        if self._slots is not None:
            self._slots.to_host()
        before = [len(pool.data) for pool in self.state.pools]
        x = self._plain(x)
        if before != [len(pool.data) for pool in self.state.pools]:  # frames are elsewhere now
            self._recordings, self._slots = dict.fromkeys(self._recordings), None
        self._recordings.setdefault(step)
        return x

    def restart(self, shard: Shard) -> None:
        """The next clip begins; `shard` cuts as the last one did."""
        self.state.shard = shard
        self.state.restart()
        if self._slots is not None:
            self._slots.restart()

    def _plain(self, x: Tensor) -> Tensor:
        vae, state = self._vae(), self.state
        assert vae is not None
        x = vae.decode(x, state) if self._kind == "decode" else vae.encode(x, state)
        for pool in state.pools:
            if blank := pool.settle():
                fused.blank(pool, blank)
        state.shard.end_chunk()
        return x

    def _record(self, step: tuple[bool, torch.Size], x: Tensor) -> Recording | None:
        shard, pools = self.state.shard, self.state.pools
        if shard.num_ranks > 1 and shard.peer_memory is None:  # messages are made by the host
            return None
        self._slots = self._slots or SlotOrder(pools, x.device)
        self._slots.to_host()
        before = [(pool.layers, pool.order) for pool in pools]
        try:
            recording = Recording(self._plain, x, self._slots, shard)
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
        """Whose pasts the pools have, in order."""
        return [pool.layers for pool in self.pools]

    def to_device(self, layers: list[list[object]]) -> None:
        """From now on the device knows; a step that it takes leaves `layers` with a past."""
        if self._layers is None:
            self.list.copy_(torch.tensor(self.order()))
        self._layers = layers

    def rewind(self, layers: list[list[object]], order: list[int]) -> None:
        """From now on the device knows, and it is this that it knows."""
        self.list.copy_(torch.tensor(order))
        self._layers = layers

    def to_host(self) -> None:
        """From now on the pools know; waits for the device."""
        if self._layers is None:
            return
        slots = self.list.tolist()
        for pool, start, layers in zip(self.pools, self.starts, self._layers, strict=True):
            pool.arrange(layers, [slot - start for slot in slots[start + 1 : start + len(pool.data)]])
        self._layers = None

    def restart(self) -> None:
        """No layer has a past. Any order will do then that has every slot once."""
        if self._layers is not None:
            self._layers = [[] for _ in self.pools]


class Recording:
    """One step of a clip as a CUDA graph."""

    def __init__(self, step: Callable[[Tensor], Tensor], x: Tensor, slots: SlotOrder, shard: Shard) -> None:
        self._slots = slots
        self._graph = torch.cuda.CUDAGraph()
        self._x = torch.empty_like(x)
        layers, before, counted = slots.layers(), slots.order(), (shard.sent, shard.sequence)
        role = {slot: place for place, slot in enumerate(before)}
        # What is known only afterwards: the roles that are looked up, where their pools begin, and the new order.
        roles, starts, order = (
            x.new_zeros(n, dtype=torch.int64) for n in (MAX_TABLE, MAX_TABLE, len(before))
        )
        looked_up: list[tuple[int, int]] = []

        def table(pool: PaddedFramePool, wanted: tuple[int, ...]) -> Tensor:
            begin, start = len(looked_up), slots.starts[slots.pools.index(pool)]
            looked_up.extend((role[start + slot], start) for slot in wanted)
            looked_up.extend([(0, 0)] * (-len(looked_up) % 4))  # kernels know that a table begins at 16 bytes
            assert len(looked_up) <= MAX_TABLE, len(looked_up)
            return tables[begin : begin + len(wanted)]

        for pool in slots.pools:
            pool.tables = table
        try:
            # Other threads copy frames and serve pages meanwhile; what they do is not recorded, and may be anything.
            with torch.cuda.graph(self._graph, pool=slots.memory, capture_error_mode="thread_local"):
                tables = (slots.list[roles] - starts).int()
                self._out = step(self._x)
                slots.list.copy_(slots.list[order])
        finally:
            for pool in slots.pools:
                pool.tables = None
            self.sent = shard.sent - counted[0]  # bytes to other ranks
            shard.sent, shard.sequence = counted
        self._layers = slots.layers()
        self._reads = roles, starts, order  # the graph does, as long as it lives
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


@contextmanager
def borrowed(vae: WanVAE, kind: str, shard: Shard, x: Tensor) -> Iterator[Coder]:
    """A coder for a clip whose first chunk is x: the last clip's, if that is over and was of the same size."""
    key = clip_key(vae, kind, shard, x.shape)
    release(vae, unless=key)
    coder = _idle.pop(vae, None)
    if coder is None:
        coder = Coder(vae, kind, key, shard)
    else:
        coder.restart(shard)
    try:
        yield coder
    except GeneratorExit:  # the clip was long enough
        _keep(vae, coder)
        raise
    _keep(vae, coder)


def _keep(vae: WanVAE, coder: Coder) -> None:
    if coder.records:
        _idle[vae] = coder


def release(vae: WanVAE, unless: tuple[Any, ...] | None = None, longest: int = 0) -> bool:
    """Free what the last clip left for another of its size, unless that is the clip of this key, and the last one's
    chunks were as long as its `longest`, in frames: then it has all the memory that it needs, and this is True."""
    coder = _idle.get(vae)
    if coder is not None and coder.key == unless and coder.longest >= longest:
        return True
    _idle.pop(vae, None)
    return False


def clip_key(vae: WanVAE, kind: str, shard: Shard, shape: Sequence[int]) -> tuple[Any, ...]:
    """What clips have in common that can go on with each other's coder; `shape` is that of the first chunk."""
    weight = vae.quant_conv.weight
    return kind, shard.dim, shard.bounds, shard.rank, tuple(shape), weight.dtype, weight.data_ptr()
