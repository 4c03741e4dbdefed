"""Files that numpy.save and numpy.savez wrote: headers, which are not trusted, become LazyTensors."""

from __future__ import annotations

import math
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.untrusted_text import Refusal, printable
from wanvae_app.formats.zip_archive import BoundedReader, data_start

MAX_HEADER = 10_000  # bytes; a plain array's has about 120
MAX_DIMS = 64  # of an array; NumPy's limit
MAX_SIZE = 2**60  # of a dimension
MAX_ARRAYS = 1000  # of an archive


def read_npy(path: Path, size: int) -> dict[str, LazyTensor]:
    """The array of a .npy file of `size` bytes, under the name "array". Raises Refusal for what is no plain array."""
    return {"array": _lazy_array(path, 0, size)}


def is_npz(path: Path) -> bool:
    """Whether a zip archive holds arrays of NumPy's, and nothing of torch.save's. Raises what zipfile raises."""
    names = [entry.filename for entry in _entries(path)]
    return any(name.endswith(".npy") for name in names) and not any(name.endswith(".pkl") for name in names)


def read_npz(path: Path, size: int) -> dict[str, LazyTensor]:
    """The arrays of an archive of `size` bytes, by name. Raises Refusal if one is compressed or no plain array."""
    entries = [entry for entry in _entries(path) if entry.filename.endswith(".npy")]
    if len(entries) > MAX_ARRAYS:
        raise Refusal(f"holds {len(entries)} arrays; at most {MAX_ARRAYS} are listed.")
    arrays = {}
    with BoundedReader(path.open("rb", buffering=0)) as file:
        for entry in entries:
            # An uncompressed entry cannot expand in memory.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise Refusal("is a compressed archive; save it with numpy.savez, not savez_compressed.")
            start = data_start(file, entry)
            end = min(size, start + entry.file_size)
            arrays[entry.filename.removesuffix(".npy")] = _lazy_array(path, start, end)
    return arrays


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    with BoundedReader(path.open("rb", buffering=0)) as file, zipfile.ZipFile(file) as archive:
        return archive.infolist()


def _lazy_array(path: Path, start: int, end: int) -> LazyTensor:
    """The array that lies from byte `start` to byte `end` of a file, its header first."""
    with path.open("rb") as file:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # 3.0 has named fields
            raise Refusal("holds a NumPy table; save a plain array of floating point numbers.")
        position = file.tell()
        length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
        if length > MAX_HEADER:
            raise Refusal(f"has a header of {length} bytes; at most {MAX_HEADER} are read.")
        file.seek(position)
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
    if offset + needed > end:
        raise Refusal(
            f"is damaged or cut off: its header states an array of shape {printable(str(list(shape)))}, "
            f"{needed} bytes, and it has {end - start}."
        )
    read = partial(_read_array, path, offset, shape, is_fortran, dtype)
    return LazyTensor(tuple(shape), printable(str(dtype)), dtype.kind == "f", read)


def _read_array(
    path: Path, offset: int, shape: tuple[int, ...], is_fortran: bool, dtype: np.dtype[Any]
) -> Tensor:
    """Read an array that begins `offset` bytes into the file, in native byte order and C order."""
    array = np.fromfile(path, dtype, math.prod(shape), offset=offset)
    array = array.reshape(shape, order="F" if is_fortran else "C")
    if array.dtype.itemsize > 8:  # float128 and the like, which PyTorch lacks
        array = array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
