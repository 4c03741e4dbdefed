"""NVRTC: compiles CUDA C++ without a CUDA toolkit. PyTorch brings the library."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import logging
import os
import sys
from functools import lru_cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)


@lru_cache
def compiled(text: str, name: str, target: str) -> bytes:
    """Return `text` compiled for `target`. Takes seconds, unless an earlier process left the result on disk.

    For a target such as "sm_90a" it is machine code; for one such as "compute_80" it is PTX, which the driver
    translates for the card in hand.

    The result is kept beside Triton's compiled kernels, in a folder `name`. Raises RuntimeError with the compiler's log
    if the text is wrong, and OSError if there is no NVRTC.
    """
    library = _library()
    version = (ctypes.c_int * 2)()
    _check(library.nvrtcVersion(ctypes.byref(version, 0), ctypes.byref(version, 4)))
    key = hashlib.sha256(f"{list(version)}{target}{text}".encode()).hexdigest()
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache") / name
    try:
        return (folder / key).read_bytes()
    except OSError:
        code = compile_text(library, text, name, target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{key}.{os.getpid()}"
        fresh.write_bytes(code)
        fresh.replace(folder / key)  # whole or not at all
    except OSError as error:
        log.info("The compiled kernel is not kept: %s", error)
    return code


def compile_text(library: ctypes.CDLL, text: str, name: str, target: str) -> bytes:
    """Return `text` compiled by this NVRTC, whose messages call it `name`.cu."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    source, file_name = text.encode(), f"{name}.cu".encode()
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture={target}".encode(), b"--std=c++17")
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source, file_name, 0, None, None))
    if library.nvrtcCompileProgram(program, len(options), options):
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        messages = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, messages)
        raise RuntimeError(messages.value.decode(errors="replace"))
    get_size, get = (
        (library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN)
        if target.startswith("sm_")
        else (library.nvrtcGetPTXSize, library.nvrtcGetPTX)
    )
    _check(get_size(program, ctypes.byref(size)))
    code = ctypes.create_string_buffer(size.value)
    _check(get(program, code))
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw


def _check(result: int) -> None:
    if result:
        raise RuntimeError(f"CUDA says {result}")


@lru_cache
def _library() -> ctypes.CDLL:
    """Return the NVRTC of PyTorch's CUDA version, from the system or from PyTorch's packages."""
    name = f"libnvrtc.so.{(torch.version.cuda or '').split('.')[0]}"
    paths = [name, *(path for folder in sys.path for path in glob.glob(f"{folder}/nvidia/*/lib/{name}"))]
    for path in paths:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise OSError(f"no {name}")
