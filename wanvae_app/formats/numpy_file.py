"""Files that numpy.save and numpy.savez wrote: headers, which are not trusted, become LazyTensors."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

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
# Bytes of an array per byte of its compressed file. Values of 32 bits that were rounded to 8 are compressed to a fifth.
MAX_EXPANSION = 16
HEADER_BYTES = MAX_HEADER + 20  # that are expanded to find an array's header
PIECE = 2**20  # bytes that are expanded at a time


def read_npy(path: Path, size: int) -> dict[str, LazyTensor]:
    """The array of a .npy file of `size` bytes, under the name "array". Raises Refusal for what is no plain array."""
    return {"array": _lazy_array(path, 0, size)}


def is_npz(path: Path) -> bool:
    """Whether a zip archive holds arrays of NumPy's, and nothing of torch.save's. Raises what zipfile raises."""
    names = [entry.filename for entry in _entries(path)]
    return any(name.endswith(".npy") for name in names) and not any(name.endswith(".pkl") for name in names)


def read_npz(path: Path, size: int) -> dict[str, LazyTensor]:
    """The arrays of an archive of `size` bytes, by name.

    Raises Refusal for what is no plain array.
    """
    entries = [entry for entry in _entries(path) if entry.filename.endswith(".npy")]
    if len(entries) > MAX_ARRAYS:
        raise Refusal(f"holds {len(entries)} arrays; at most {MAX_ARRAYS} are listed.")
    arrays = {}
    with BoundedReader(path.open("rb", buffering=0)) as file:
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if entry.compress_type == zipfile.ZIP_STORED:
                start = data_start(file, entry)
                end = min(size, start + entry.file_size)
                arrays[name] = _lazy_array(path, start, end)
            elif entry.compress_type == zipfile.ZIP_DEFLATED:
                arrays[name] = _compressed_array(path, size, entry)
            else:
                raise Refusal("is compressed in a way that NumPy does not; save it with numpy.savez.")
    return arrays


def _compressed_array(path: Path, size: int, entry: zipfile.ZipInfo) -> LazyTensor:
    """An entry that numpy.savez_compressed wrote, as a LazyTensor that expands it."""
    with zipfile.ZipFile(path) as archive, archive.open(entry) as file:
        header = _read_header(io.BytesIO(file.read(HEADER_BYTES)))
    return header.lazy_tensor(partial(_expand, path, size, entry.filename, header))


def _expand(path: Path, size: int, name: str, header: _Header) -> Tensor:
    """Expand an array of an archive, of as many bytes as its header says, whatever the archive would yield.

    Raises ValueError for more than MAX_EXPANSION times the file's `size`.
    """
    if header.num_bytes > MAX_EXPANSION * size:
        raise ValueError(
            f"it would take {header.num_bytes} bytes, more than {MAX_EXPANSION} times the file's; save it with "
            "numpy.savez"
        )
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        file.read(header.offset)
        data = bytearray(header.num_bytes)
        position = 0
        while position < len(data) and (piece := file.read(min(PIECE, len(data) - position))):
            data[position : position + len(piece)] = piece
            position += len(piece)
    if position < len(data):
        raise ValueError("the archive ends before the array does")
    return header.tensor(np.frombuffer(data, header.dtype))


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    with BoundedReader(path.open("rb", buffering=0)) as file, zipfile.ZipFile(file) as archive:
        return archive.infolist()


class _Header(NamedTuple):
    """What the header of an array says; checked, but not against the file's size."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int  # of the values, in bytes after the header's begin

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def lazy_tensor(self, read: Callable[[], Tensor]) -> LazyTensor:
        return LazyTensor(tuple(self.shape), printable(str(self.dtype)), self.dtype.kind == "f", read)

    def tensor(self, array: np.ndarray) -> Tensor:
        """The flat values as a tensor of the header's shape, in native byte order and C order."""
        array = array.reshape(self.shape, order="F" if self.is_fortran else "C")
        if array.dtype.itemsize > 8:  # float128 and the like, which PyTorch lacks
            array = array.astype(np.float64)
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def _read_header(file: IO[bytes]) -> _Header:
    """Read an array's header, which begins where the file stands. Raises Refusal for what is no plain array."""
    start = file.tell()
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
    if dtype.hasobject:
        raise Refusal("holds Python objects, which are not read for safety; save array.astype('float32').")
    if len(shape) > MAX_DIMS or any(type(n) is not int or not 0 <= n < MAX_SIZE for n in shape):
        is_short = all(type(n) is int and abs(n) < MAX_SIZE for n in shape)
        stated = f"the shape {printable(str(shape))}" if is_short else "an impossible shape"
        raise Refusal(f"is damaged: its header states {stated}.")
    return _Header(tuple(shape), is_fortran, dtype, file.tell() - start)


def _lazy_array(path: Path, start: int, end: int) -> LazyTensor:
    """The array that lies from byte `start` to byte `end` of a file, its header first."""
    with path.open("rb") as file:
        file.seek(start)
        header = _read_header(file)
    offset = start + header.offset
    if offset + header.num_bytes > end:
        raise Refusal(
            f"is damaged or cut off: its header states an array of shape {printable(str(list(header.shape)))}, "
            f"{header.num_bytes} bytes, and it has {end - start}."
        )
    count = math.prod(header.shape)
    return header.lazy_tensor(lambda: header.tensor(np.fromfile(path, header.dtype, count, offset=offset)))
