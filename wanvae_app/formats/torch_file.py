"""Files that torch.save wrote, as a zip archive or (before PyTorch 1.6) as pickles and bytes in a row."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanvae_app.formats.lazy_tensor import LazyTensor, Refusal, plain
from wanvae_app.formats.pickle_data import Storage, View, unpickle

MAX_PICKLE = 2**19  # bytes; a whole checkpoint's has about 60 KB
MAX_DIRECTORY = 2**20  # bytes that describe an archive; a whole checkpoint's has about 60 KB
MAX_THINGS = 10_000  # in a pickle: tensors, numbers, lists
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a number, pickled
PLAIN_TENSORS = "save plain tensors with torch.save(tensor, file), or as .safetensors."


def read_archive(path: Path, size: int) -> dict[str, LazyTensor]:
    """The tensors in a zip archive. Raises Refusal, or whatever zipfile and `unpickle` stumble over."""
    with _Cautious(path.open("rb", buffering=0)) as file:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
        if any(name.endswith("/constants.pkl") for name in entries):
            raise Refusal(f"is a TorchScript program; {PLAIN_TENSORS}")
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1 and any(name.endswith(".npy") for name in entries):
            raise Refusal("is a NumPy archive (.npz); save the array alone, with numpy.save(file, array).")
        if len(pickles) != 1:
            raise Refusal(f"is an archive, but not one that torch.save wrote; {PLAIN_TENSORS}")
        # torch.save never compresses, and what is stored as it is cannot expand.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise Refusal(f"is a compressed archive; {PLAIN_TENSORS}")
        if entries[pickles[0]].file_size > MAX_PICKLE:
            raise Refusal(f"holds more than a file of tensors does; {PLAIN_TENSORS}")
        folder = pickles[0].removesuffix("data.pkl")
        order = entries.get(f"{folder}byteorder")
        if order is not None:
            file.seek(_start(file, order))
            if file.read(3) == b"big":
                raise Refusal(f"comes from a big-endian machine; {PLAIN_TENSORS}")
        file.seek(_start(file, entries[pickles[0]]))
        value = unpickle(io.BytesIO(file.read(entries[pickles[0]].file_size)))
        places = {}
        for storage in {view.storage for _, view in _views(value)}:
            entry = entries[f"{folder}data/{storage.key}"]
            places[storage] = _start(file, entry), entry.file_size
    return {name: _stored(path, size, name, view, places) for name, view in _views(value)}


def read_legacy(path: Path, size: int) -> dict[str, LazyTensor]:
    """The tensors in a file of the old kind. Raises Refusal, or whatever `unpickle` stumbles over."""
    with path.open("rb") as raw:
        start = raw.read(MAX_PICKLE)
        pickles = io.BytesIO(start)
        if not start.startswith(LEGACY_MAGIC):
            unpickle(pickles)  # says what it holds, if that is no tensor
            raise Refusal(f"is a pickle, but not one that torch.save wrote; {PLAIN_TENSORS}")
        _, _, system, value, keys = (unpickle(pickles) for _ in range(5))
        if not system.get("little_endian", True):
            raise Refusal(f"comes from a big-endian machine; {PLAIN_TENSORS}")
        storages = {view.storage.key: view.storage for _, view in _views(value)}
        places, position = {}, pickles.tell()
        for key in keys:
            storage = storages.get(key)
            if storage is None:
                raise Refusal(f"holds numbers that belong to no tensor; {PLAIN_TENSORS}")
            raw.seek(position)
            (num_values,) = struct.unpack("<q", raw.read(8))
            num_bytes = num_values * storage.dtype.itemsize
            places[storage] = position + 8, num_bytes
            position += 8 + max(num_bytes, 0)
    return {name: _stored(path, size, name, view, places) for name, view in _views(value)}


class _Cautious(io.BufferedReader):
    """Refuses to read a directory of archive entries that is far larger than any that torch.save writes."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise Refusal(f"is an archive of too many entries; {PLAIN_TENSORS}")
        return data


def _start(file: io.BufferedReader, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: after its own header, whose length only it knows."""
    file.seek(entry.header_offset)
    magic, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
    if magic != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no entry where {entry.filename} should be")
    return entry.header_offset + 30 + name_length + extra_length


def _stored(
    path: Path, size: int, name: str, view: View, places: dict[Storage, tuple[int, int]]
) -> LazyTensor:
    start, num_bytes = places[view.storage]
    if start + num_bytes > size or (view.offset + view.span) * view.dtype.itemsize > num_bytes:
        raise Refusal(
            f"is damaged or cut off: {plain(name)} of shape {plain(str(list(view.shape)))} is not in it whole."
        )
    # A tensor may be a view that repeats few values endlessly.
    if view.num_bytes > size:
        raise Refusal(
            f"has {size} bytes, fewer than {plain(name)} of shape {plain(str(list(view.shape)))} needs; "
            "save it as tensor.contiguous()."
        )
    dtype = str(view.dtype).removeprefix("torch.")
    return LazyTensor(view.shape, dtype, view.dtype.is_floating_point, partial(_read, path, start, view))


def _read(path: Path, start: int, view: View) -> Tensor:
    if view.span == 0:
        return torch.empty(view.shape, dtype=view.dtype)
    with path.open("rb") as file:
        file.seek(start + view.offset * view.dtype.itemsize)
        data = bytearray(view.span * view.dtype.itemsize)
        if file.readinto(data) != len(data):
            raise ValueError("the file has become shorter")
    return torch.frombuffer(data, dtype=view.dtype).as_strided(view.shape, view.stride).contiguous()


def _views(value: Any) -> Iterator[tuple[str, View]]:
    """Tensors in nested dicts, lists and tuples, with dotted names."""
    levels: list[Iterator[tuple[str, Any]]] = [iter([("", value)])]
    for _ in range(MAX_THINGS):  # a pickle can hold the same list in itself many times over
        name, value = next(levels[-1], (None, None))
        if name is None:
            levels.pop()
            if not levels:
                return
        elif isinstance(value, View):
            yield name or "tensor", value
        elif isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            levels.append(_named(name, items))
    raise Refusal(f"holds more than {MAX_THINGS} things; {PLAIN_TENSORS}")


def _named(name: str, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for key, item in items:
        key = str(key)[:100]
        yield (f"{name}.{key}" if name else key)[-100:], item
