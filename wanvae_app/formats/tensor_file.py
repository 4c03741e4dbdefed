"""Tensor files of every kind (safetensors, PyTorch, NumPy): headers, which are not trusted, become LazyTensors."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.torch_file import read_archive, read_legacy
from wanvae_app.formats.untrusted_text import Refusal, first_line, printable

MAX_HEADER = 2**20  # bytes of a safetensors header; a whole checkpoint's has about 30 KB
MAX_NUMPY_HEADER = 10_000  # bytes; a plain array's has about 120
MAX_DIMS = 64  # of an array; NumPy's limit
MAX_SIZE = 2**60  # of a dimension
SAFETENSORS_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
SUFFIXES = ".safetensors, .latent, .pt, .pth or .npy"
# First bytes of files that are not read, and the advice that the refusal gives.
OTHER_FORMATS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first.",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first.",
    b"GGUF": f"is a GGUF file, which is not read; give one of {SUFFIXES}.",
    b"\x89HDF": f"is an HDF5 file, which is not read; give one of {SUFFIXES}.",
    b"version https://": "is a pointer of git-lfs, not the file itself; fetch that with git lfs pull.",
}


def lazy_tensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors, PyTorch or NumPy file, by name. The format is told by the first bytes.

    Nothing in the file is executed, and no more memory is taken than the file is large.

    Raises:
        ValueError: the file is damaged or holds other things than tensors; the message is one sentence.
        TypeError: the file is of another format.
        OSError: the file cannot be opened.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
    if size == 0:
        raise ValueError(f"{path.name} is empty.")
    if head[8:9] == b"{":
        reader = _safetensors
    elif head.startswith(b"\x93NUMPY"):
        reader = _numpy
    elif head.startswith(b"PK"):
        reader = read_archive
    elif head.startswith(b"\x80"):  # a pickle
        reader = read_legacy
    else:
        for magic, advice in OTHER_FORMATS.items():
            if head.startswith(magic):
                raise ValueError(f"{path.name} {advice}")
        raise TypeError(f"{path.name} is no file of tensors")
    try:
        return reader(path, size)
    except Refusal as refusal:
        raise ValueError(f"{path.name} {refusal}") from refusal
    except MemoryError as error:
        raise ValueError(
            f"{path.name} needs more memory than a file of its size should; save it again, as .safetensors."
        ) from error
    except Exception as error:  # a parser may raise anything on damaged input
        raise ValueError(f"{path.name} is damaged or cut off: {first_line(error)}.") from error


def _safetensors(path: Path, size: int) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file of `size` bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if 8 + length > size:
        raise Refusal(
            f"is damaged or cut off: it has {size} bytes, and its header alone should have {length}."
        )
    if length > MAX_HEADER:
        raise Refusal(f"has a header of {length} bytes; at most {MAX_HEADER} are read.")
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: LazyTensor(
                tuple(part.get_shape()),
                part.get_dtype(),
                part.get_dtype() in SAFETENSORS_FLOATS,
                partial(_read_safetensors, path, name),
            )
            for name, part in slices.items()
        }


def _read_safetensors(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor.clone()  # the original is a view of the mapped file


def _numpy(path: Path, size: int) -> dict[str, LazyTensor]:
    """The array of a .npy file of `size` bytes, under the name "array"."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # 3.0 has named fields
            raise Refusal("holds a NumPy table; save a plain array of floating point numbers.")
        start = file.tell()
        length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
        if length > MAX_NUMPY_HEADER:
            raise Refusal(f"has a header of {length} bytes; at most {MAX_NUMPY_HEADER} are read.")
        file.seek(start)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = headers[version](file)
        offset = file.tell()
    if dtype.hasobject:
        raise Refusal("holds Python objects, which are not read for safety; save array.astype('float32').")
    if len(shape) > MAX_DIMS or any(type(n) is not int or not 0 <= n < MAX_SIZE for n in shape):
        is_short = all(type(n) is int and abs(n) < MAX_SIZE for n in shape)
        stated = f"the shape {printable(str(shape))}" if is_short else "an impossible shape"
        raise Refusal(f"is damaged: its header states {stated}.")
    needed = math.prod(shape) * dtype.itemsize
    if offset + needed > size:
        raise Refusal(
            f"is damaged or cut off: its header states an array of shape {printable(str(list(shape)))}, "
            f"{needed} bytes, and it has {size}."
        )
    read = partial(_read_numpy, path, offset, shape, is_fortran, dtype)
    return {"array": LazyTensor(tuple(shape), printable(str(dtype)), dtype.kind == "f", read)}


def _read_numpy(
    path: Path, offset: int, shape: tuple[int, ...], is_fortran: bool, dtype: np.dtype[Any]
) -> Tensor:
    """Read an array that begins `offset` bytes into the file, in native byte order and C order."""
    array = np.fromfile(path, dtype, math.prod(shape), offset=offset)
    array = array.reshape(shape, order="F" if is_fortran else "C")
    if array.dtype.itemsize > 8:  # float128 and the like, which PyTorch lacks
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
