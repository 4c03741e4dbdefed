"""Padded frames: what convolutions read. A frame has a border of one pixel and stays where it was written.

Frames of one size and width lie in a pool, each in a slot. A layer's past is two slots, which it keeps from chunk to
chunk; kernels are told slots and never move a frame.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

Slots = tuple[int, ...]  # indices of frames in a pool's memory
MAX_TABLES = 4096  # of `SlotTables`, kept at a time


class PaddedFrames(Protocol):
    """What kernels take for padded frames: a pool, or a view of one."""

    @property
    def data(self) -> Tensor:
        """All frames, [slots, H + 2, W + 2, C]."""

    def table(self, slots: Slots) -> Tensor:
        """Return slots as int32 [len(slots)] on the frames' device."""


class SlotTables:
    """Makes the tensors that tell kernels slots, each once: every chunk asks for the same ones."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._made = lru_cache(maxsize=MAX_TABLES)(self._make)

    def __call__(self, pool: PaddedFramePool, slots: Slots) -> Tensor:
        """Return slots as int32 [len(slots)] on the device, whichever pool they are of."""
        return self._made(slots)

    def _make(self, slots: Slots) -> Tensor:
        with torch.inference_mode(False):
            return torch.tensor(slots, dtype=torch.int32, device=self.device)


class PaddedFramePool:
    """Padded frames of one size and width, handed out as slots of `data` [slots, H + 2, W + 2, C].

    Slot 0 is all zeros and stands for the frames before the clip. Borders are zero, as a convolution's padding is,
    unless a neighbour's rows are written there. A pool moves to more memory when it has too few slots.

    `tables` makes the tensors that tell kernels slots. While a CUDA graph is recorded, other tables take its place (see
    `fast/cuda_graph.py`).
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        dtype: torch.dtype,
        device: torch.device,
        tables: SlotTables | None = None,
    ) -> None:
        assert height > 0 and width > 0, (height, width)
        self.data = torch.empty(0, height + 2, width + 2, channels, dtype=dtype, device=device)
        self.tables: Callable[[PaddedFramePool, Slots], Tensor] = tables or SlotTables(device)
        self._past: dict[object, tuple[int, int]] = {}
        self._free: list[int] = []
        self._num_kept = self._num_passing = 0
        self._grow(1)
        self._free.clear()

    def view_as(self, dtype: torch.dtype) -> PaddedFrameView:
        """Return these frames, read as numbers of another type of the same size.

        Layers of both types share the pool: zero has the same bits, and what a slot held before is never read.
        """
        return PaddedFrameView(self, dtype)

    def reserve(self, num_kept: int, num_passing: int) -> None:
        """Make room for `num_kept` more frames that stay from chunk to chunk, and for `num_passing` within a chunk."""
        self._num_kept += num_kept
        self._num_passing = max(self._num_passing, num_passing)
        if 1 + self._num_kept + self._num_passing > len(self.data):
            self._grow(1 + self._num_kept + self._num_passing)

    def take(self, count: int) -> Slots:
        """Take the lowest free slots to write frames into: then all chunks of a size use the same slots."""
        if count > len(self._free):
            self._grow(len(self.data) + count - len(self._free))
        return tuple(heapq.heappop(self._free) for _ in range(count))

    def give_back(self, slots: Slots) -> None:
        """Free slots whose frames are read no more. Slot 0 may be among them and stays."""
        for slot in slots:
            if slot:
                heapq.heappush(self._free, slot)

    def has_past(self, layer: object) -> bool:
        """Return whether a layer has a past here."""
        return layer in self._past

    def past(self, layer: object) -> tuple[int, int]:
        """Return the slots of the last two frames that a layer read; twice slot 0 at the clip's start."""
        return self._past.setdefault(layer, (0, 0))

    def advance(self, layer: object, slots: Slots) -> None:
        """Make the last two of `slots`, which a layer has read, its past, and free the others.

        `slots` are in order of time and begin with its past so far. The last two may have taken its place.
        """
        past = (slots[-2], slots[-1])
        self.give_back(tuple(slot for slot in slots[:-2] if slot not in past))
        self._past[layer] = past

    def settle(self) -> Slots:
        """Give every layer two slots of its own for its past, so that all later chunks take the same steps.

        Returns the slots that must be filled with zeros, because their layer has read fewer than two frames.
        """
        zeros: Slots = ()
        for layer, (older, newer) in self._past.items():
            fresh = self.take((not older) + (not newer))
            zeros += fresh
            self._past[layer] = (older or fresh[0], newer or fresh[-1])
        return zeros

    def restart(self) -> None:
        """Begin the next clip: free and forget the layers' pasts."""
        for slots in self._past.values():
            self.give_back(slots)
        self._past.clear()
        self._num_kept = 0

    @property
    def layers(self) -> list[object]:
        """The layers that have a past here, in the order of `order`."""
        return list(self._past)

    @property
    def order(self) -> list[int]:
        """All slots but 0: two for each layer's past, then the free ones."""
        return [slot for slots in self._past.values() for slot in slots] + sorted(self._free)

    def arrange(self, layers: list[object], order: list[int]) -> None:
        """Set `layers` and `order`, for instance to what was read from them earlier."""
        self._past = {layer: (order[2 * i], order[2 * i + 1]) for i, layer in enumerate(layers)}
        self._free = sorted(order[2 * len(layers) :])  # a sorted list is a heap

    def table(self, slots: Slots) -> Tensor:
        """Return slots as int32 [len(slots)] on the frames' device."""
        return self.tables(self, slots)

    def _grow(self, count: int) -> None:
        assert isinstance(self.tables, SlotTables), "a pool cannot move while it is being recorded"
        old, have = self.data, len(self.data)
        self.data = old.new_empty(count, *old.shape[1:])
        self.data[:have] = old
        fresh = self.data[have:]
        for border in (fresh[:, 0], fresh[:, -1], fresh[:, :, 0], fresh[:, :, -1]):
            border.zero_()
        if not have:
            self.data[0].zero_()
        for slot in range(have, count):
            heapq.heappush(self._free, slot)


class PaddedFrameView:
    """A pool's padded frames, read as numbers of another type of the same size."""

    def __init__(self, pool: PaddedFramePool, dtype: torch.dtype) -> None:
        assert dtype.itemsize == pool.data.dtype.itemsize, (dtype, pool.data.dtype)
        self.pool = pool
        self.dtype = dtype

    @property
    def data(self) -> Tensor:
        """All frames [slots, H + 2, W + 2, C], where the pool has them now."""
        return self.pool.data.view(self.dtype)

    def table(self, slots: Slots) -> Tensor:
        """Return slots as int32 [len(slots)] on the frames' device."""
        return self.pool.table(slots)
