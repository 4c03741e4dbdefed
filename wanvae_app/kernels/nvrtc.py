"""CUDA C++ on Hopper GPUs without a toolkit: NVRTC, which PyTorch brings, compiles it, and the driver starts it."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import logging
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# What `hopper.cuh` says, too.
TILE_ROWS, TILE_COLUMNS = 8, 16  # pixels of a block
DEPTH = 32  # channels in per step
THREADS = 384
MEMORY = 227 * 1024  # bytes of shared memory that a block may have


class _Attribute(ctypes.Structure):  # CUlaunchAttribute
    _fields_ = (
        ("id", ctypes.c_int),
        ("_", ctypes.c_int),
        ("value", ctypes.c_int),
        ("rest", ctypes.c_int * 15),
    )


class _Launch(ctypes.Structure):  # CUlaunchConfig
    _fields_ = (
        *((f"{what}_{axis}", ctypes.c_uint) for what in ("grid", "block") for axis in "xyz"),
        ("memory", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


class Kernel(NamedTuple):
    """A kernel of this folder, `name`_kernel in `name`.cu, for certain shapes."""

    name: str
    width: int  # channels out of a block
    element: str  # f16 or bf16: what it multiplies
    macros: tuple[tuple[str, int], ...]
    more: int = 0  # bytes of shared memory beyond those that `hopper.cuh` lays out

    @property
    def stages(self) -> int:
        """Taps whose weights are under way, or tiles of results on their way out: as many as there is room for."""
        return min((MEMORY - self._memory(0)) // (self._memory(1) - self._memory(0)), 12)

    def memory(self) -> int:
        """Bytes of shared memory that a block uses."""
        return self._memory(self.stages)

    def _memory(self, stages: int) -> int:
        """Bytes for pixels, for weights or results in so many stages, and for barriers."""
        frame = -(-(TILE_ROWS + 2) * (TILE_COLUMNS + 2) * 64 // 512) * 512
        return 1024 + 8 * frame + stages * 256 * self.width + 16 * (2 + stages) + self.more

    def text(self) -> str:
        """What is compiled: the macros, and the tensor cores' instruction for this width, m64 n k16."""
        width, element, regs, folder = self.width, self.element, self.width // 2, Path(__file__).parent
        sums = ", ".join(f"%{i}" for i in range(regs))
        outputs = ", ".join(f'"+f"(p[{i}])' for i in range(regs))
        instruction = f"""
constexpr int REGS = {regs};
DEV void multiply(float (&p)[REGS], u64 a, u64 b, int add_to) {{
    asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{regs + 2}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{width}k16.f32.{element}.{element} "
        "{{{sums}}}, %{regs}, %{regs + 1}, p, 1, 1, 0, 0;\\n}}"
        : {outputs} : "l"(a), "l"(b), "r"(add_to));
}}
"""
        macros = (("BN", width), ("STAGES", self.stages), *self.macros)
        head = "".join(f"#define {name} {int(value)}\n" for name, value in macros)
        files = ("hopper.cuh", "results.cuh", f"{self.name}.cu")
        hopper, results, kernel = ((folder / name).read_text() for name in files)
        return head + hopper + instruction + results + kernel

    def start(
        self, clusters: int, device: torch.device, arguments: list[Any], dependent: bool = False
    ) -> None:
        """Start clusters of two blocks on PyTorch's current stream; `arguments` are ctypes' values. A `dependent` may
        begin before the kernel that was started last is done, once all its blocks have allowed it."""
        packed = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(x) for x in arguments))
        stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
        function, memory = _function(self, device), self.memory()
        with torch.cuda.device(device):
            _enter(device)
            early = _Attribute(6, value=1)  # PROGRAMMATIC_STREAM_SERIALIZATION
            launch = _Launch(
                2 * clusters, 1, 1, THREADS, 1, 1, memory, stream, ctypes.pointer(early), dependent
            )
            _check(_driver().cuLaunchKernelEx(ctypes.byref(launch), function, packed, None))


@lru_cache
def _function(kernel: Kernel, device: torch.device) -> ctypes.c_void_p:
    """The compiled kernel in the device's context, allowed its shared memory."""
    driver, module, found = _driver(), ctypes.c_void_p(), ctypes.c_void_p()
    compiled = cubin(kernel.text(), kernel.name)
    with torch.cuda.device(device):
        _enter(device)
        _check(driver.cuModuleLoadData(ctypes.byref(module), compiled))
        _check(driver.cuModuleGetFunction(ctypes.byref(found), module, f"{kernel.name}_kernel".encode()))
        _check(driver.cuFuncSetAttribute(found, 8, kernel.memory()))  # MAX_DYNAMIC_SHARED_SIZE_BYTES
    return found


@lru_cache
def cubin(text: str, name: str) -> bytes:
    """The text compiled for sm_90a, or as it was compiled before: it takes seconds. `name` is what it is kept under."""
    version = (ctypes.c_int * 2)()
    _check(_nvrtc().nvrtcVersion(ctypes.byref(version, 0), ctypes.byref(version, 4)))
    key = hashlib.sha256(f"{list(version)}{text}".encode()).hexdigest()
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache") / name
    try:
        return (folder / key).read_bytes()
    except OSError:
        compiled = compile_text(_nvrtc(), text, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{key}.{os.getpid()}"
        fresh.write_bytes(compiled)
        fresh.replace(folder / key)  # whole or not at all
    except OSError as error:
        log.info("The compiled kernel is not kept: %s", error)
    return compiled


def compile_text(nvrtc: ctypes.CDLL, text: str, name: str) -> bytes:
    """A cubin for sm_90a."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    _check(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), f"{name}.cu".encode(), 0, None, None)
    )
    options = (ctypes.c_char_p * 2)(b"--gpu-architecture=sm_90a", b"--std=c++17")
    if nvrtc.nvrtcCompileProgram(program, len(options), options):
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        said = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, said)
        raise RuntimeError(said.value.decode(errors="replace"))
    _check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    compiled = ctypes.create_string_buffer(size.value)
    _check(nvrtc.nvrtcGetCUBIN(program, compiled))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return compiled.raw


def tensor_map(x: Tensor, box: tuple[int, ...]) -> Any:
    """How the copy engine sees x of 16-bit numbers, with four dimensions and its channels side by side, in boxes
    (innermost first): not interleaved, 64 bytes swizzled, zeros outside."""
    return _encoded(x.data_ptr(), tuple(x.shape), x.stride(), box)


@lru_cache(maxsize=1024)
def _encoded(pointer: int, shape: tuple[int, ...], stride: tuple[int, ...], box: tuple[int, ...]) -> Any:
    store = ctypes.create_string_buffer(128 + 64)
    map_ = (ctypes.c_uint64 * 16).from_buffer(store, -ctypes.addressof(store) % 64)
    sizes = shape[::-1]
    strides = [2 * step for step in stride[-2::-1]]
    _check(
        _driver().cuTensorMapEncodeTiled(
            ctypes.byref(map_), 6, 4, ctypes.c_void_p(pointer), (ctypes.c_uint64 * 4)(*sizes),
            (ctypes.c_uint64 * 3)(*strides), (ctypes.c_uint32 * 4)(*box), (ctypes.c_uint32 * 4)(1, 1, 1, 1),
            0, 2, 3, 0,  # 16 bits; not interleaved, 64 bytes swizzled, L2 reads 256 bytes, zeros outside
        )
    )  # fmt: skip
    return map_


def _check(result: int) -> None:
    if result:
        raise RuntimeError(f"CUDA says {result}")


@lru_cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@lru_cache
def _nvrtc() -> ctypes.CDLL:
    name = f"libnvrtc.so.{(torch.version.cuda or '').split('.')[0]}"
    places = [name, *(f for path in sys.path for f in glob.glob(f"{path}/nvidia/*/lib/{name}"))]
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise OSError(f"no {name}")


def _enter(device: torch.device) -> None:
    """Makes the device's context current in this thread, which may not have called CUDA yet."""
    driver, context = _driver(), ctypes.c_void_p()
    _check(driver.cuCtxGetCurrent(ctypes.byref(context)))
    if not context.value:
        number = ctypes.c_int()
        _check(driver.cuDeviceGet(ctypes.byref(number), device.index or 0))
        _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number))
        _check(driver.cuCtxSetCurrent(context))
