"""Tensors in files of any kind: listed from the headers, which are not trusted, and read one at a time."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from wanvae_app.formats.lazy_tensor import LazyTensor, Refusal, first_line, plain
from wanvae_app.formats.torch_file import read_archive, read_legacy

MAX_HEADER = 2**20  # bytes of a safetensors header; a whole checkpoint's has about 30 KB
SAFETENSORS_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
ACCEPTED = ".safetensors, .latent, .pt, .pth or .npy"
# Said of files that people take for these.
OTHERS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first.",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first.",
    b"GGUF": f"is a GGUF file, which is not read; give one of {ACCEPTED}.",
    b"\x89HDF": f"is an HDF5 file, which is not read; give one of {ACCEPTED}.",
    b"version https://": "is a pointer of git-lfs, not the file itself; fetch that with git lfs pull.",
}


def stored_tensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors in a safetensors, PyTorch or NumPy file, by name; the content says which it is.

    Nothing in the file is executed, and no more memory taken than the file is large. Raises ValueError, in
    one sentence, if it is damaged or holds other things; TypeError if it is none of these kinds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
    if size == 0:
        raise ValueError(f"{path.name} is empty.")
    if head[8:9] == b"{":
        kind = _safetensors
    elif head.startswith(b"\x93NUMPY"):
        kind = _numpy
    elif head.startswith(b"PK"):
        kind = read_archive
    elif head.startswith(b"\x80"):  # a pickle
        kind = read_legacy
    else:
        for magic, what in OTHERS.items():
            if head.startswith(magic):
                raise ValueError(f"{path.name} {what}")
        raise TypeError(f"{path.name} is no file of tensors")
    try:
        return kind(path, size)
    except Refusal as refusal:
        raise ValueError(f"{path.name} {refusal}") from refusal
    except Exception as error:  # of many kinds: whatever the parsers stumble over
        raise ValueError(f"{path.name} is damaged or cut off: {first_line(error)}.") from error


def _safetensors(path: Path, size: int) -> dict[str, LazyTensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if 8 + length > size:
        raise Refusal(
            f"is damaged or cut off: it has {size} bytes, and its header alone should have {length}."
        )
    if length > MAX_HEADER:
        raise Refusal(f"has a header of {length} bytes; at most {MAX_HEADER} are read.")
    with safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: LazyTensor(
                tuple(part.get_shape()),
                part.get_dtype(),
                part.get_dtype() in SAFETENSORS_FLOATS,
                partial(_read_safetensors, path, name),
            )
            for name, part in parts.items()
        }


def _read_safetensors(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name).clone()  # so that the file does not stay mapped


def _numpy(path: Path, size: int) -> dict[str, LazyTensor]:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # 3.0 has named fields
            raise Refusal("holds a NumPy table; save a plain array of floating point numbers.")
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = headers[version](file)
        start = file.tell()
    if dtype.hasobject:
        raise Refusal("holds Python objects, which are not read for safety; save array.astype('float32').")
    if any(type(n) is not int or n < 0 for n in shape):
        raise Refusal(f"is damaged: its header states the shape {plain(str(shape))}.")
    needed = math.prod(shape) * dtype.itemsize
    if start + needed > size:
        raise Refusal(
            f"is damaged or cut off: its header states an array of shape {plain(str(list(shape)))}, {needed} bytes, "
            f"and it has {size}."
        )
    read = partial(_read_numpy, path, start, shape, fortran, dtype)
    return {"array": LazyTensor(tuple(shape), plain(str(dtype)), dtype.kind == "f", read)}


def _read_numpy(path: Path, start: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> Tensor:
    array = np.fromfile(path, dtype, math.prod(shape), offset=start).reshape(
        shape, order="F" if fortran else "C"
    )
    if array.dtype.itemsize > 8:  # no such type in PyTorch
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
