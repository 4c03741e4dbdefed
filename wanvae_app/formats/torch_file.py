"""Files that torch.save wrote: a zip archive, or (before PyTorch 1.6) pickles and raw bytes in a row."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.pickle_data import unpickle
from wanvae_app.formats.torch_globals import Storage, View, storage_key
from wanvae_app.formats.untrusted_text import Refusal, printable
from wanvae_app.formats.zip_archive import BoundedReader, data_start

MAX_PICKLE = 2**19  # bytes; a whole checkpoint's has about 60 KB
MAX_OBJECTS = 10_000  # in a pickle: tensors, numbers, lists
MAX_DEPTH = 64  # of lists in lists
MAX_NAME = 1000  # characters of an archive's folder, which is called after the file
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a number, pickled
ADVICE = "save plain tensors with torch.save(tensor, file), or as .safetensors."


class ByteRange(NamedTuple):
    """Where the values of a storage lie in the file."""

    start: int
    num_bytes: int


def read_archive(path: Path, size: int) -> dict[str, LazyTensor]:
    """The tensors of a zip archive of `size` bytes, by dotted name.

    Raises Refusal for what torch.save does not write. On damaged archives it raises whatever zipfile and
    `unpickle` raise.
    """
    with BoundedReader(path.open("rb", buffering=0)) as file:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
        if any(name.endswith("/constants.pkl") for name in entries):
            raise Refusal(f"is a TorchScript program; {ADVICE}")
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refusal(f"is an archive, but not one that torch.save wrote; {ADVICE}")
        # torch.save never compresses, and an uncompressed entry cannot expand in memory.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise Refusal(f"is a compressed archive; {ADVICE}")
        if entries[pickles[0]].file_size > MAX_PICKLE:
            raise Refusal(f"holds more than a file of tensors does; {ADVICE}")
        folder = pickles[0].removesuffix("data.pkl")
        if len(folder) > MAX_NAME:
            raise Refusal(f"is an archive, but not one that torch.save wrote; {ADVICE}")
        byte_order = entries.get(f"{folder}byteorder")
        if byte_order is not None:
            file.seek(data_start(file, byte_order))
            if file.read(3) == b"big":
                raise Refusal(f"comes from a big-endian machine; {ADVICE}")
        file.seek(data_start(file, entries[pickles[0]]))
        value = unpickle(io.BytesIO(file.read(entries[pickles[0]].file_size)))
        ranges = {}
        for storage in {view.storage for _, view in _views(value)}:
            entry = entries.get(f"{folder}data/{storage.key}")
            if entry is None:
                raise Refusal(
                    f"is damaged or cut off: the values of its storage {printable(storage.key)} are missing."
                )
            ranges[storage] = ByteRange(data_start(file, entry), entry.file_size)
    return _lazy_tensors(path, size, value, ranges)


def read_legacy(path: Path, size: int) -> dict[str, LazyTensor]:
    """The tensors of a file of `size` bytes as PyTorch wrote it before 1.6, by dotted name.

    Raises Refusal for what torch.save does not write. On damaged files it raises whatever `unpickle` raises.
    """
    with path.open("rb") as file:
        head = file.read(MAX_PICKLE)
        pickles = io.BytesIO(head)
        if not head.startswith(LEGACY_MAGIC):
            unpickle(pickles)  # raises Refusal with the name of a Python object, if there is one
            raise Refusal(f"is a pickle, but not one that torch.save wrote; {ADVICE}")
        _, _, system, value, keys = (unpickle(pickles) for _ in range(5))
        if type(system) is not dict or type(keys) is not list or len(keys) > MAX_OBJECTS:
            raise Refusal(f"is a pickle, but not one that torch.save wrote; {ADVICE}")
        if not system.get("little_endian", True):
            raise Refusal(f"comes from a big-endian machine; {ADVICE}")
        storages = {view.storage.key: view.storage for _, view in _views(value)}
        ranges, position = {}, pickles.tell()
        for key in keys:
            storage = storages.get(storage_key(key))
            if storage is None:
                raise Refusal(f"holds numbers that belong to no tensor; {ADVICE}")
            file.seek(position)
            (num_values,) = struct.unpack("<q", file.read(8))
            num_bytes = num_values * storage.dtype.itemsize
            ranges[storage] = ByteRange(position + 8, num_bytes)
            position += 8 + max(num_bytes, 0)
    return _lazy_tensors(path, size, value, ranges)


def _lazy_tensors(
    path: Path, size: int, value: Any, ranges: dict[Storage, ByteRange]
) -> dict[str, LazyTensor]:
    """The tensors in what `unpickle` returned, whose storages lie at `ranges` of the file."""
    return {name: _lazy_tensor(path, size, name, view, ranges[view.storage]) for name, view in _views(value)}


def _lazy_tensor(path: Path, size: int, name: str, view: View, storage: ByteRange) -> LazyTensor:
    """The tensor that `view` describes, or Refusal if its values exceed its storage or the file."""
    end = (view.offset + view.span) * view.dtype.itemsize
    if storage.start + storage.num_bytes > size or end > storage.num_bytes:
        raise Refusal(
            f"is damaged or cut off: {printable(name)} of shape {printable(str(list(view.shape)))} is not in it "
            "whole."
        )
    # Strides of zero repeat a few values without end.
    if view.num_bytes > size:
        raise Refusal(
            f"has {size} bytes, fewer than {printable(name)} of shape {printable(str(list(view.shape)))} needs; "
            "save it as tensor.contiguous()."
        )
    dtype = str(view.dtype).removeprefix("torch.")
    read = partial(_read, path, storage.start, view)
    return LazyTensor(view.shape, dtype, view.dtype.is_floating_point, read)


def _read(path: Path, start: int, view: View) -> Tensor:
    """Read a view's values from its storage, which begins at byte `start` of the file."""
    if view.span == 0:
        return torch.empty(view.shape, dtype=view.dtype)
    with path.open("rb") as file:
        file.seek(start + view.offset * view.dtype.itemsize)
        data = bytearray(view.span * view.dtype.itemsize)
        if file.readinto(data) != len(data):
            raise ValueError("the file has become shorter")
    return torch.frombuffer(data, dtype=view.dtype).as_strided(view.shape, view.stride).contiguous()


def _views(value: Any) -> Iterator[tuple[str, View]]:
    """The views in nested dicts, lists and tuples, with dotted names.

    Raises Refusal after MAX_OBJECTS objects, or where they are nested more than MAX_DEPTH deep.
    """
    levels: list[Iterator[tuple[str, Any]]] = [iter([("", value)])]
    for _ in range(MAX_OBJECTS):  # a pickle can contain one list in itself many times
        name, value = next(levels[-1], (None, None))
        if name is None:
            levels.pop()
            if not levels:
                return
        elif isinstance(value, View):
            yield name or "tensor", value
        elif isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            if len(levels) > MAX_DEPTH:
                raise Refusal(f"holds things nested more than {MAX_DEPTH} deep; {ADVICE}")
            levels.append(_with_dotted_names(name, items))
    raise Refusal(f"holds more than {MAX_OBJECTS} things; {ADVICE}")


def _with_dotted_names(parent: str, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    """The items of a container, each with its key behind the container's name, in at most 100 characters."""
    for key, item in items:
        key = str(key)[:100]
        yield (f"{parent}.{key}" if parent else key)[-100:], item
