"""Padded frames: pictures with a border of one pixel that stay where they were written from chunk to chunk."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

Slots = tuple[int, ...]  # which of a pool's frames, by their place in its memory
MAX_TABLES = 4096


class PaddedFrames(Protocol):
    """What kernels take for padded frames: all of them, [slots, H + 2, W + 2, C], and tables that name slots."""

    @property
    def data(self) -> Tensor: ...

    def table(self, slots: Slots) -> Tensor: ...


class SlotTables:
    """Makes the tensors that name slots to kernels, each once: the same few are asked for in every chunk."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._made = lru_cache(maxsize=MAX_TABLES)(self._make)

    def __call__(self, pool: PaddedFramePool, slots: Slots) -> Tensor:
        """Slots as int32 [len(slots)] on the device."""
        return self._made(slots)

    def _make(self, slots: Slots) -> Tensor:
        with torch.inference_mode(False):
            return torch.tensor(slots, dtype=torch.int32, device=self.device)


class PaddedFramePool:
    """Frames [H + 2, W + 2, C] as the fast convolutions read them, handed out as slots of `data`.

    `data` is [count, H + 2, W + 2, C]. Past frames are never moved: who reads them is told their slots. Slot 0 is all
    zeros and stands for the frames before the clip. Borders are zero, as a convolution's padding is, unless a
    neighbour's rows are put there. `tables` makes the tensors that name slots; a recording replaces it for a while
    (see `cuda_graph.py`).
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
        """These frames holding numbers of another type of the same size.

        Zeros and borders serve both types, since zero has the same bits; what a frame held before it was taken is
        never read.
        """
        return PaddedFrameView(self, dtype)

    def reserve(self, num_kept: int, num_passing: int) -> None:
        """Make room for `num_kept` more frames that stay from chunk to chunk, and `num_passing` that come and go."""
        self._num_kept += num_kept
        self._num_passing = max(self._num_passing, num_passing)
        if 1 + self._num_kept + self._num_passing > len(self.data):
            self._grow(1 + self._num_kept + self._num_passing)

    def take(self, count: int) -> Slots:
        """Take the lowest free slots to write frames into, so that the pattern repeats from chunk to chunk."""
        if count > len(self._free):
            self._grow(len(self.data) + count - len(self._free))
        return tuple(heapq.heappop(self._free) for _ in range(count))

    def give_back(self, slots: Slots) -> None:
        """Free slots whose frames are read no more."""
        for slot in slots:
            if slot:
                heapq.heappush(self._free, slot)

    def has_past(self, layer: object) -> bool:
        """Whether a layer has a past here."""
        return layer in self._past

    def past(self, layer: object) -> tuple[int, int]:
        """The slots of the last two frames that a layer read; slot 0 at the start."""
        return self._past.setdefault(layer, (0, 0))

    def advance(self, layer: object, slots: Slots) -> None:
        """Note that a layer has read these slots, past frames first: the last two are its past now, the others free."""
        self.give_back(slots[:-2])
        self._past[layer] = (slots[-2], slots[-1])

    def settle(self) -> Slots:
        """Give every layer two slots of its own for its past, so that from now on every chunk does the same.

        Returns the slots that must become zeros, because their layer has seen fewer than two frames.
        """
        blank: Slots = ()
        for layer, (older, newer) in self._past.items():
            fresh = self.take((not older) + (not newer))
            blank += fresh
            self._past[layer] = (older or fresh[0], newer or fresh[-1])
        return blank

    def restart(self) -> None:
        """Begin the next clip: no layer has a past."""
        for slots in self._past.values():
            self.give_back(slots)
        self._past.clear()
        self._num_kept = 0

    @property
    def layers(self) -> list[object]:
        """The layers that have a past here."""
        return list(self._past)

    @property
    def order(self) -> list[int]:
        """All slots but 0: those of the layers' pasts, then those that are free."""
        return [slot for slots in self._past.values() for slot in slots] + sorted(self._free)

    def arrange(self, layers: list[object], order: list[int]) -> None:
        """Set `layers` and `order` to what they were when they were read."""
        self._past = {layer: (order[2 * i], order[2 * i + 1]) for i, layer in enumerate(layers)}
        self._free = sorted(order[2 * len(layers) :])  # a sorted list is a heap

    def table(self, slots: Slots) -> Tensor:
        """Slots as int32 [len(slots)] on the frames' device."""
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
        """All frames, where they are now: a pool that grows moves."""
        return self.pool.data.view(self.dtype)

    def table(self, slots: Slots) -> Tensor:
        """As the pool's."""
        return self.pool.table(slots)
