"""How much memory this process took at most: the GPU's allocator where there is one, else resident memory."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Measure from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or forbidden: then the peak is that of the whole process so far
        return


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since `reset_peak`; weights included, on the CPU the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
