"""Timing: the speed of a device, and when it passes points in its work."""

from __future__ import annotations

import time
from typing import Any

import torch

NUM_PRODUCTS = 6


class Marks:
    """Marks points in a device's work and tells when they were passed.

    On a GPU they are CUDA events, which do not make the host wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._marks: list[Any] = []
        self.set()

    def set(self) -> None:
        """Mark the end of the work that the device was given so far."""
        if self._gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Seconds from the first mark to each later one. The device must have passed them all."""
        first, *others = self._marks
        return [first.elapsed_time(mark) / 1e3 if self._gpu else mark - first for mark in others]


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product of random data, the best of NUM_PRODUCTS."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(NUM_PRODUCTS):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e12


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
