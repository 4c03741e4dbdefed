"""CUDA's driver through ctypes: loads compiled kernels, starts them, and describes tensors to the copy engine.

Functions raise RuntimeError with the driver's error code, and OSError where there is no driver.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Constants of cuda.h
PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID
MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # CUfunction_attribute
FLOAT16, INTERLEAVE_NONE, SWIZZLE_64B, L2_256B, OOB_FILL_NONE = 6, 0, 2, 3, 0  # CUtensorMap...


class _Attribute(ctypes.Structure):  # CUlaunchAttribute
    _fields_ = (
        ("id", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("value", ctypes.c_int),
        ("rest", ctypes.c_int * 15),
    )


class _Launch(ctypes.Structure):  # CUlaunchConfig
    _fields_ = (
        *((f"{what}_{axis}", ctypes.c_uint) for what in ("grid", "block") for axis in "xyz"),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


def load_function(code: bytes, name: str, shared_bytes: int, device: torch.device) -> ctypes.c_void_p:
    """Return the function `name` of machine code or PTX in the device's context, allowed so much shared memory."""
    driver, module, function = _driver(), ctypes.c_void_p(), ctypes.c_void_p()
    with torch.cuda.device(device):
        _enter_context(device)
        _check(driver.cuModuleLoadData(ctypes.byref(module), code))
        _check(driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
        _check(driver.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes))
    return function


def launch(
    function: ctypes.c_void_p,
    num_blocks: int,
    num_threads: int,
    shared_bytes: int,
    device: torch.device,
    arguments: Sequence[Any],
    dependent: bool,
) -> None:
    """Launch blocks of `num_threads` on PyTorch's current stream; `arguments` are ctypes' values.

    A `dependent` launch may begin before the one ahead of it is done, once all blocks of that one have allowed it
    (CUDA's programmatic dependent launch).
    """
    addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(x) for x in arguments))
    stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
    with torch.cuda.device(device):
        _enter_context(device)
        attribute = _Attribute(PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
        config = _Launch(
            num_blocks, 1, 1, num_threads, 1, 1, shared_bytes, stream, ctypes.pointer(attribute), dependent
        )
        _check(_driver().cuLaunchKernelEx(ctypes.byref(config), function, addresses, None))


def tensor_map(x: Tensor, box: tuple[int, ...]) -> Any:
    """Describe x, a tensor of 16-bit numbers with four dimensions, to the copy engine, which moves a `box` at a time.

    `box` is a shape with the innermost dimension first; that one must be contiguous in x. In shared memory 64 bytes are
    swizzled together, and what lies outside x is read as zero.
    """
    return _encoded(x.data_ptr(), tuple(x.shape), x.stride(), box)


@lru_cache(maxsize=1024)
def _encoded(pointer: int, shape: tuple[int, ...], stride: tuple[int, ...], box: tuple[int, ...]) -> Any:
    store = ctypes.create_string_buffer(128 + 64)  # CUtensorMap is 128 bytes, at a multiple of 64
    map_ = (ctypes.c_uint64 * 16).from_buffer(store, -ctypes.addressof(store) % 64)
    sizes = (ctypes.c_uint64 * 4)(*shape[::-1])
    strides = (ctypes.c_uint64 * 3)(*(2 * step for step in stride[-2::-1]))  # in bytes, without the innermost
    every = (ctypes.c_uint32 * 4)(1, 1, 1, 1)
    _check(
        _driver().cuTensorMapEncodeTiled(
            ctypes.byref(map_), FLOAT16, 4, ctypes.c_void_p(pointer), sizes, strides,
            (ctypes.c_uint32 * 4)(*box), every, INTERLEAVE_NONE, SWIZZLE_64B, L2_256B, OOB_FILL_NONE,
        )
    )  # fmt: skip
    return map_


def _check(result: int) -> None:
    if result:
        raise RuntimeError(f"CUDA says {result}")


@lru_cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _enter_context(device: torch.device) -> None:
    """Make the device's context current in this thread, which may not have called CUDA yet."""
    driver, context = _driver(), ctypes.c_void_p()
    _check(driver.cuCtxGetCurrent(ctypes.byref(context)))
    if not context.value:
        number = ctypes.c_int()
        _check(driver.cuDeviceGet(ctypes.byref(number), device.index or 0))
        _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number))
        _check(driver.cuCtxSetCurrent(context))
