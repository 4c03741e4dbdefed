"""The device of a rank: how it is chosen and set up, its dtype, and the memory in use on it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import sys
from pathlib import Path

import torch

from wanvae_app.config import DTYPE_NAMES
from wanvae_app.errors import plural

DEVICES = ("auto", "cpu", "cuda")
DTYPES = dict(zip(DTYPE_NAMES, (torch.bfloat16, torch.float16, torch.float32, torch.float64), strict=True))
# Options of glibc's mallopt(3), numbered as in its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Of Linux's /proc/cpuinfo, for instructions that multiply these types.
BF16_FLAGS, FP16_FLAGS = "avx512_bf16|amx_bf16|bf16", "avx512_fp16|amx_fp16|asimdhp"
NEVER = 2**31 - 1  # bytes; a threshold that nothing reaches


def choose_device(name: str, local_rank: int, local_size: int) -> torch.device:
    """The device of the process `local_rank` of `local_size` on this machine; `name` is one of DEVICES.

    Raises ValueError for another name, and if there are fewer GPUs than processes.
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
            f"{local_size} ranks were started for {plural(num_gpus, 'GPU')}: start torchrun with --nproc-per-node "
            f"{num_gpus}, or give --device cpu."
        )
    return torch.device("cuda", local_rank)


def refuse_mixed_devices(on_gpu: list[bool]) -> None:
    """Raise ValueError if only some ranks have GPUs: no connection carries tensors between these and CPUs."""
    if len(set(on_gpu)) > 1:
        raise ValueError(
            f"Rank {on_gpu.index(False)} runs on a CPU, and rank {on_gpu.index(True)} on a GPU: start all ranks on "
            "GPUs, or with --cpu N on every machine all on CPUs."
        )


def set_up(device: torch.device, local_size: int) -> None:
    """Prepare this process for its device. On the CPU it shares the cores with `local_size` - 1 other processes."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL's batched messages go over the current device
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        torch.set_num_threads(max(1, num_cores() // local_size))
        # By default glibc returns the memory of each large tensor at once, and half of the time is spent on new pages
        # for the next. Let it keep freed memory, in one heap for all threads. `tidy_up` returns it.
        with contextlib.suppress(AttributeError):  # another libc
            libc = ctypes.CDLL(None)
            libc.mallopt(M_TRIM_THRESHOLD, NEVER)
            libc.mallopt(M_MMAP_THRESHOLD, NEVER)
            libc.mallopt(M_ARENA_MAX, 1)


def device_fault(device: torch.device) -> str:
    """Return in a line why the device does no more work for this process, "" if it does. Does not wait for it.

    After some errors, such as a card that fell off the bus, every later call of CUDA fails until the process ends.
    """
    if device.type != "cuda":
        return ""
    try:
        torch.cuda.current_stream(device).query()
    except RuntimeError as error:
        return str(error).partition("\n")[0].rstrip(" .")
    return ""


def tidy_up(device: torch.device) -> None:
    """Return memory that is kept for reuse. Other processes may need it, or the next job in pieces of other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    with contextlib.suppress(AttributeError):  # another libc than glibc
        ctypes.CDLL(None).malloc_trim(0)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called `name`, one of DTYPES or "auto": bf16 where it is native, else fp16 on GPUs and fp32 on CPUs.

    Raises ValueError for another name.
    """
    if name != "auto":
        if name not in DTYPES:
            raise ValueError(f"Unknown dtype {name!r}; choose auto, {', '.join(DTYPES)}.")
        return DTYPES[name]
    if device.type == "cuda":
        # Tensor cores take bf16 from compute capability 8.0 on. Older GPUs only emulate it.
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if _cpu_has(BF16_FLAGS) else torch.float32


def slow_dtype(dtype: torch.dtype, device: torch.device) -> str:
    """Return a sentence if the device has no instructions for a dtype, and which dtype is faster; "" if it has."""
    fast = choose_dtype("auto", device)
    if device.type == "cuda":
        lacks = dtype == torch.bfloat16 and fast != dtype
    else:
        lacks = (
            dtype.itemsize == 2 and dtype != fast and not (dtype == torch.float16 and _cpu_has(FP16_FLAGS))
        )
    if not lacks:
        return ""
    names = {value: name for name, value in DTYPES.items()}
    # One convolution of 16 channels, one thread of an AMD EPYC, warm: fp16 took 114 times as long as bf16.
    factor = ", by a factor of a hundred and more" if device.type == "cpu" and fast == torch.bfloat16 else ""
    return f"{device_name(device)} is slow in {names[dtype]}{factor}: --dtype {names[fast]} is faster there"


def device_name(device: torch.device) -> str:
    """Return what people call the device: the GPU's name, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _cpu_has(flags: str) -> bool:
    """Whether the CPU has instructions for products, by flags of the kernel's. False where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    return re.search(rf"\b({flags})\b", text) is not None


def num_spare_ranks(device: torch.device) -> int:
    """How many more ranks this machine has GPUs for, or cores if `device` is a CPU."""
    places = torch.cuda.device_count() if device.type == "cuda" else num_cores()
    return max(0, places - int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def reset_peak(device: torch.device) -> None:
    """Let `peak_bytes` count from now on, where the system allows that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or forbidden: the peak counts from the start of the process
        return


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since `reset_peak`: of tensors, weights included, on a GPU, and of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes: macOS counts bytes, other systems KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
