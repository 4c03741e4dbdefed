"""The device that a rank works on, and how it is set up."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch

DEVICES = ("auto", "cpu", "cuda")
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
