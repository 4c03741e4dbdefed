"""Tensors in files of any kind: listed from the headers, which are not trusted, and read one at a time."""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

MAX_HEADER = 2**20  # bytes of a safetensors header; a whole checkpoint's has about 30 KB
MAX_PICKLE = 2**18  # bytes of a pickle; a whole checkpoint's has about 60 KB
MAX_THINGS = 10_000  # in a pickle: tensors, numbers, lists
MAX_LEGACY = 2**32  # bytes of a file as torch.save wrote it before 1.6, which cannot be mapped
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # that such a file begins with, a pickled number
# What pickles of tensors call. More is let through by torch.load(weights_only=True), such as bytearray, which
# makes gigabytes out of a few bytes.
PICKLED = re.compile(
    r"torch\._utils _rebuild_(tensor(_v[23])?|parameter)|torch(\.storage)? \w+Storage|torch ([a-z]\w+|Size)"
    r"|collections (OrderedDict|Counter)|builtins (set|complex)|_codecs encode|__builtin__ (set|complex)"
)
SAFETENSORS_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, its values not read yet; `read` gives them in float32, contiguous, on the CPU."""

    shape: tuple[int, ...]
    dtype: str  # as the file calls it
    floating: bool
    read: Callable[[], Tensor]


def stored_tensors(path: Path) -> dict[str, Stored]:
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
    elif head.startswith(b"PK\x03\x04"):
        kind = _torch_zip
    elif head.startswith(b"\x80"):  # a pickle
        kind = _torch_legacy
    else:
        raise TypeError(f"{path.name} is no file of tensors")
    try:
        return kind(path, size)
    except _Refusal as refusal:
        raise ValueError(f"{path.name} {refusal}") from refusal
    except (
        Exception
    ) as error:  # the parsers raise whatever they stumble over: struct, tokenize, zlib, key errors
        raise ValueError(f"{path.name} is damaged or cut off: {first_line(error)}.") from error


def first_line(error: BaseException) -> str:
    """What an exception says, made short enough for a page, without a full stop."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return (text if len(text) <= 160 else f"{text[:160]}...").removesuffix(".")


class _Refusal(Exception):
    """The rest of a sentence that begins with the file's name."""


SAVE_ALONE = "save the tensor alone, with torch.save(tensor, file)."
PYTHON_OBJECTS = f"holds Python objects, which are not read for safety; {SAVE_ALONE}"


def _safetensors(path: Path, size: int) -> dict[str, Stored]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if 8 + length > size:
        raise _Refusal(
            f"is damaged or cut off: it has {size} bytes, and its header alone should have {length}."
        )
    if length > MAX_HEADER:
        raise _Refusal(f"has a header of {length} bytes; at most {MAX_HEADER} are read.")

    def read(name: str) -> Callable[[], Tensor]:
        def values() -> Tensor:
            with safe_open(path, "pt") as file:
                return _float32(file.get_tensor(name))

        return values

    with safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: Stored(
                tuple(part.get_shape()), part.get_dtype(), part.get_dtype() in SAFETENSORS_FLOATS, read(name)
            )
            for name, part in parts.items()
        }


def _numpy(path: Path, size: int) -> dict[str, Stored]:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # 3.0 has named fields
            raise _Refusal("holds a NumPy table; save a plain array of floating point numbers.")
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = headers[version](file)
        start = file.tell()
    if dtype.hasobject:
        raise _Refusal(PYTHON_OBJECTS)
    if any(type(n) is not int or n < 0 for n in shape):
        raise _Refusal(f"is damaged: its header states the shape {shape!r:.60}.")
    needed = math.prod(shape) * dtype.itemsize
    if start + needed > size:
        raise _Refusal(
            f"is damaged or cut off: its header states {list(shape)} numbers, {needed} bytes, and it has {size}."
        )

    def values() -> Tensor:
        array = np.fromfile(path, dtype, math.prod(shape), offset=start)
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as that
            array = array.astype(np.float32).reshape(shape, order="F" if fortran else "C")
        return _float32(torch.from_numpy(np.ascontiguousarray(array)))

    return {"array": Stored(tuple(shape), str(dtype), dtype.kind == "f", values)}


def _torch_zip(path: Path, size: int) -> dict[str, Stored]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if any(name.endswith("/constants.pkl") for name in names):
            raise _Refusal(f"is a TorchScript program; {SAVE_ALONE}")
        # torch.save never compresses. What is stored as it is cannot expand.
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size for entry in entries):
            raise _Refusal(f"is a compressed archive; {SAVE_ALONE}")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or len(set(names)) != len(names):
            raise _Refusal(f"is an archive, but not one that torch.save wrote; {SAVE_ALONE}")
        if pickles[0].file_size > MAX_PICKLE:
            raise _Refusal(f"holds more than a file of tensors does; {SAVE_ALONE}")
        _check_pickle(io.BytesIO(archive.read(pickles[0])))
    return _listed(torch.load(path, "cpu", weights_only=True, mmap=True), size)


def _torch_legacy(path: Path, size: int) -> dict[str, Stored]:
    with path.open("rb") as file:
        start = file.read(MAX_PICKLE)
    if not start.startswith(LEGACY_MAGIC):
        raise _Refusal(PYTHON_OBJECTS)
    pickles = io.BytesIO(start)
    for _ in range(5):  # the magic number, the protocol, the system, the tensors, the names of their storages
        _check_pickle(pickles)
    if size > MAX_LEGACY:
        raise _Refusal("is too large for PyTorch's old file format; save it again with a newer PyTorch.")
    return _listed(torch.load(path, "cpu", weights_only=True), size)


def _check_pickle(file: IO[bytes]) -> None:
    """Refuse a pickle that calls anything but what tensors need. Reads to its end."""
    for opcode, arg, _ in pickletools.genops(file):
        if opcode.name == "STACK_GLOBAL" or (
            opcode.name in ("GLOBAL", "INST") and not PICKLED.fullmatch(str(arg))
        ):
            raise _Refusal(PYTHON_OBJECTS)


def _listed(value: Any, size: int) -> dict[str, Stored]:
    found = {}
    for name, tensor in _tensors(value):
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            continue  # no values in the file, or not all of them
        # A tensor may be a view that repeats few values endlessly; the file's size bounds what is read.
        if tensor.numel() * tensor.element_size() > size:
            raise _Refusal(
                f"has {size} bytes, fewer than {name[:60]} of shape {list(tensor.shape)} needs; "
                "save it as tensor.contiguous()."
            )
        floating = tensor.is_floating_point()
        dtype = str(tensor.dtype).removeprefix("torch.")
        found[name] = Stored(tuple(tensor.shape), dtype, floating, partial(_float32, tensor))
    return found


def _tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested dicts and lists, with dotted names."""
    levels: list[Iterator[tuple[str, Any]]] = [iter([("", value)])]
    for _ in range(MAX_THINGS):  # a pickle can hold the same list in itself many times over
        name, value = next(levels[-1], (None, None))
        if name is None:
            levels.pop()
            if not levels:
                return
        elif isinstance(value, Tensor):
            yield name or "tensor", value
        elif isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            levels.append(_named(name, items))
    raise _Refusal(f"holds more than {MAX_THINGS} things; {SAVE_ALONE}")


def _named(name: str, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for key, item in items:
        yield (f"{name}.{key}" if name else str(key))[-100:], item


def _float32(tensor: Tensor) -> Tensor:
    """A copy, so that no file stays mapped."""
    return tensor.detach().to(torch.float32, memory_format=torch.contiguous_format, copy=True)
