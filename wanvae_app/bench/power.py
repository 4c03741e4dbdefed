"""What a GPU draws, and the clock it runs at, while a case is coded. Needs `pynvml`, which PyTorch does not bring."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

PERIOD = 0.02  # seconds between two looks; the driver has new numbers about as often


@dataclass
class PowerLog:
    """What was seen while a block ran; empty without `pynvml` and on CPUs."""

    watts: list[float] = field(default_factory=list)
    megahertz: list[float] = field(default_factory=list)  # of the multiprocessors

    @property
    def mean_watts(self) -> float | None:
        """Watts, the mean."""
        return fmean(self.watts) if self.watts else None

    @property
    def mean_megahertz(self) -> float | None:
        """Megahertz, the mean."""
        return fmean(self.megahertz) if self.megahertz else None


@contextmanager
def power_log(device: torch.device) -> Iterator[PowerLog]:
    """Look at a GPU's power and clock every PERIOD seconds until the block ends."""
    log = PowerLog()
    gpu = _Nvml.find(device)
    if gpu is None:
        yield log
        return
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            log.watts.append(gpu.watts())
            log.megahertz.append(gpu.megahertz())
            ended.wait(PERIOD)

    thread = threading.Thread(target=look, name="power", daemon=True)
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        thread.join()


class _Nvml:
    """NVML's view of one GPU."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def find(cls, device: torch.device) -> _Nvml | None:
        """Return the view of a device; None on CPUs, without `pynvml`, and where the driver does not answer."""
        if device.type != "cuda":
            return None
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            found = cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}"))
            found.watts(), found.megahertz()
        except pynvml.NVMLError:
            return None
        return found

    def watts(self) -> float:
        """Return what the card draws now."""
        return float(self._library.nvmlDeviceGetPowerUsage(self._handle)) / 1000

    def megahertz(self) -> float:
        """Return the present clock of the multiprocessors."""
        return float(self._library.nvmlDeviceGetClockInfo(self._handle, self._library.NVML_CLOCK_SM))
