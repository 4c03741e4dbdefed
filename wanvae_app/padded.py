"""Frames that stay where they were written from chunk to chunk, and which of them are in use."""

from __future__ import annotations

import heapq
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=4096)
def _table(slots: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(slots, dtype=torch.int32, device=device)


class FramePool:
    """Frames of one shape, handed out as slots of `data` [count, *shape].

    Past frames are never moved: who reads them is told their slots. Slot 0 is all zeros: it stands for the
    frames before the clip.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.data = torch.empty(0, *shape, dtype=dtype, device=device)
        self._free: list[int] = []
        self._kept = self._at_once = 0
        self._grow(1)
        self._free.clear()

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

    def table(self, slots: tuple[int, ...]) -> Tensor:
        """int32 [len(slots)] on the frames' device; the same few come back chunk after chunk."""
        return _table(slots, self.data.device)

    def _grow(self, count: int) -> None:
        old, have = self.data, len(self.data)
        self.data = old.new_empty(count, *old.shape[1:])
        self.data[:have] = old
        self._prepare(self.data[have:])
        if not have:
            self.data[0].zero_()
        for slot in range(have, count):
            heapq.heappush(self._free, slot)

    def _prepare(self, fresh: Tensor) -> None:
        """What new frames must hold before anybody writes into them."""


class PaddedFrames(FramePool):
    """Frames [H + 2, W + 2, C]: pictures with a border of one pixel, as the fast convolutions read them.

    The border is zero, as padding is, unless a neighbour's rows are put there.
    """

    def __init__(
        self, height: int, width: int, channels: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        assert height > 0 and width > 0, (height, width)
        super().__init__((height + 2, width + 2, channels), dtype, device)

    def _prepare(self, fresh: Tensor) -> None:
        for border in (fresh[:, 0], fresh[:, -1], fresh[:, :, 0], fresh[:, :, -1]):
            border.zero_()
