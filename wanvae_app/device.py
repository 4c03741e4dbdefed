"""The device that a rank works on: how it is chosen and set up, its dtype, and the memory in use there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
from pathlib import Path

import torch

from wanvae_app.config import DTYPE_NAMES

DEVICES = ("auto", "cpu", "cuda")
DTYPES = dict(zip(DTYPE_NAMES, (torch.bfloat16, torch.float16, torch.float32, torch.float64), strict=True))
MALLOPT = {-1: 2**31 - 1, -3: 2**31 - 1, -8: 1}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX


def choose_device(name: str, local_rank: int, local_size: int) -> torch.device:
    """The device of the process `local_rank` of `local_size` on this machine; `name` is one of DEVICES.

    Raises ValueError if there are fewer GPUs than processes.
    """
    if name not in DEVICES:
        raise ValueError(f"Unknown device {name!r}; choose auto, cpu or cuda.")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count()
    if num_gpus == 0:
        raise ValueError(
            "PyTorch finds no GPU here: give --device cpu, or look at the driver with nvidia-smi."
        )
    if local_size > num_gpus:
        raise ValueError(
            f"{local_size} ranks were started for {num_gpus} GPUs: start torchrun with --nproc-per-node "
            f"{num_gpus}, or give --device cpu."
        )
    return torch.device("cuda", local_rank)


def set_up(device: torch.device, local_size: int) -> None:
    """Prepare this process for its device, of which the machine's other processes leave it a share."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # batched messages of NCCL use the current device
        torch.backends.cudnn.allow_tf32 = False  # whoever asks for fp32 wants fp32
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        torch.set_num_threads(max(1, num_cores() // local_size))
        # glibc gives a large tensor's memory back at once, and half the time goes into new pages for the next. Let
        # it keep what is freed, in one heap for all threads; `tidy_up` gives it back.
        with contextlib.suppress(AttributeError):  # another libc
            for option, value in MALLOPT.items():
                ctypes.CDLL(None).mallopt(option, value)


def tidy_up(device: torch.device) -> None:
    """Give back memory that is kept for reuse: somebody else may need it, or the next job in other pieces."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    with contextlib.suppress(AttributeError):  # another libc than glibc
        ctypes.CDLL(None).malloc_trim(0)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" or a name in DTYPES, for a device: bf16 where it is native, else fp16 on GPUs, fp32 on CPUs."""
    if name != "auto":
        if name not in DTYPES:
            raise ValueError(f"Unknown dtype {name!r}; choose auto, {', '.join(DTYPES)}.")
        return DTYPES[name]
    if device.type == "cuda":
        # sm_80 is the first whose matrix units take bf16; older GPUs only emulate it.
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32


def _cpu_multiplies_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None


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
