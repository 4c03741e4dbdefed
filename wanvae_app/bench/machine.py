"""What a machine is: its cards, their driver, its system, and the versions of what computes on it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

import torch

from wanvae_app.device import device_name, num_cores

UNKNOWN = "unknown"


def describe_device(device: torch.device) -> str:
    """Return name, compute capability, memory and driver of a GPU, or model and cores of a CPU."""
    if device.type == "cpu":
        return f"CPU, {_cpu_model()}, {num_cores()} cores"
    major, minor = torch.cuda.get_device_capability(device)
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{device_name(device)}, compute capability {major}.{minor}, {memory:.1f} GiB, driver {_driver_version()}"


def describe_software() -> str:
    """Return the versions of PyTorch, CUDA, cuDNN, Triton and Python, and the commit of this checkout."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else "none"
    return (
        f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, cuDNN {cudnn}, Triton {triton}, "
        f"Python {platform.python_version()}, commit {_commit()}"
    )


def _driver_version() -> str:
    found = _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return found[0].strip() if found else UNKNOWN


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    return _printed("git", "-C", str(root), "describe", "--always", "--dirty") or UNKNOWN


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine() or UNKNOWN


def _printed(*command: str) -> str:
    """Return what a command prints; "" if it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
