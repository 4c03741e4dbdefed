"""Frames that stay where they were written from chunk to chunk, and which of them are in use."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor


@lru_cache(maxsize=4096)
def _table(slots: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(slots, dtype=torch.int32, device=device)


class PaddedFrames(Protocol):
    """What kernels take for padded frames: all of them, [slots, H + 2, W + 2, C], and tables that say which."""

    @property
    def data(self) -> Tensor: ...

    def table(self, slots: tuple[int, ...]) -> Tensor: ...


class PaddedFramePool:
    """Frames [H + 2, W + 2, C]: pictures with a border of one pixel, as the fast convolutions read them.

    They are handed out as slots of `data` [count, H + 2, W + 2, C]. Past frames are never moved: who reads them is told
    their slots. Slot 0 is all zeros: it stands for the frames before the clip. The borders are zero, as padding is,
    unless a neighbour's rows are put there. `tables`, if it is set, makes the tensors that say slots to kernels (see
    `cuda_graph.py`).
    """

    def __init__(
        self, height: int, width: int, channels: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        assert height > 0 and width > 0, (height, width)
        self.data = torch.empty(0, height + 2, width + 2, channels, dtype=dtype, device=device)
        self.tables: Callable[[PaddedFramePool, tuple[int, ...]], Tensor] | None = None
        self._past: dict[object, tuple[int, int]] = {}
        self._free: list[int] = []
        self._kept = self._at_once = 0
        self._grow(1)
        self._free.clear()

    def view_as(self, dtype: torch.dtype) -> PaddedFrameView:
        """These frames holding numbers of another type of the same size. Zeros and borders serve both: zero has the
        same bits, and what a frame held before it was taken is never read."""
        return PaddedFrameView(self, dtype)

    def reserve(self, kept: int, at_once: int) -> None:
        """Make room for `kept` more frames that stay from chunk to chunk, and `at_once` that come and go."""
        self._kept += kept
        self._at_once = max(self._at_once, at_once)
        if 1 + self._kept + self._at_once > len(self.data):
            self._grow(1 + self._kept + self._at_once)

    def take(self, count: int) -> tuple[int, ...]:
        """Slots to write frames into, the lowest that are free: so the pattern repeats from chunk to chunk."""
        if count > len(self._free):
            self._grow(len(self.data) + count - len(self._free))
        return tuple(heapq.heappop(self._free) for _ in range(count))

    def give_back(self, slots: tuple[int, ...]) -> None:
        """These frames are read no more."""
        for slot in slots:
            if slot:
                heapq.heappush(self._free, slot)

    def knows(self, layer: object) -> bool:
        """Whether a layer has a past here."""
        return layer in self._past

    def past(self, layer: object) -> tuple[int, int]:
        """The last two frames that a layer read; zeros at the start."""
        return self._past.setdefault(layer, (0, 0))

    def advance(self, layer: object, window: tuple[int, ...]) -> None:
        """A layer has read these, past frames first: the last two are its past now, and the others free."""
        self.give_back(window[:-2])
        self._past[layer] = (window[-2], window[-1])

    def settle(self) -> tuple[int, ...]:
        """Give every layer two frames of its own for its past: so that from now on every chunk does the same, but for
        which slot is which. Returns those that must become zeros, because the layer has seen less than two frames.
        """
        blank: tuple[int, ...] = ()
        for layer, (older, newer) in self._past.items():
            fresh = self.take((not older) + (not newer))
            blank += fresh
            self._past[layer] = (older or fresh[0], newer or fresh[-1])
        return blank

    def restart(self) -> None:
        """The next clip begins: no layer has a past."""
        for slots in self._past.values():
            self.give_back(slots)
        self._past.clear()
        self._kept = 0

    @property
    def layers(self) -> list[object]:
        """Those that have a past here."""
        return list(self._past)

    @property
    def order(self) -> list[int]:
        """All slots but 0: those of the layers' pasts, then those that are free."""
        return [slot for slots in self._past.values() for slot in slots] + sorted(self._free)

    def arrange(self, layers: list[object], order: list[int]) -> None:
        """Make `layers` and `order` what they were when these were read."""
        self._past = {layer: (order[2 * i], order[2 * i + 1]) for i, layer in enumerate(layers)}
        self._free = sorted(order[2 * len(layers) :])  # a sorted list is a heap

    def table(self, slots: tuple[int, ...]) -> Tensor:
        """int32 [len(slots)] on the frames' device; the same few come back chunk after chunk."""
        return _table(slots, self.data.device) if self.tables is None else self.tables(self, slots)

    def _grow(self, count: int) -> None:
        assert self.tables is None, "what is being recorded stands where it is"
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
    """Padded frames of a pool, their numbers taken for another type."""

    def __init__(self, pool: PaddedFramePool, dtype: torch.dtype) -> None:
        assert dtype.itemsize == pool.data.dtype.itemsize, (dtype, pool.data.dtype)
        self.pool = pool
        self.dtype = dtype

    @property
    def data(self) -> Tensor:
        """All frames, where they are now: a pool that grows moves."""
        return self.pool.data.view(self.dtype)

    def table(self, slots: tuple[int, ...]) -> Tensor:
        """As the pool's."""
        return self.pool.table(slots)
