"""PyTorch files for the tests of readers: the old format, pickles that run code or were put together by hand."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch


class PrintsWhenUnpickled:
    """Prints "a pickle ran" if a reader executes the pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a pickle ran",)


class AllocatesWhenUnpickled:
    """Allocates 6 GiB if a reader executes the pickle, through a type that torch.load(weights_only=True) allows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (6 * 2**30,)


def save_legacy(value: Any, file: Any) -> None:
    """Write `value` to a path or open file as PyTorch did before 1.6."""
    torch.save(value, file, _use_new_zipfile_serialization=False)


def as_bytes(write: Callable[[Any, io.BytesIO], Any], value: Any) -> bytes:
    """The bytes that `write(value, file)` writes, such as torch.save."""
    buffer = io.BytesIO()
    write(value, buffer)
    return buffer.getvalue()


def pickled_int(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def pickled_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def tensor_pickle(storage: int, offset: int, shape: list[int], stride: list[int]) -> bytes:
    """A pickle of {"latent": tensor}: values in its storage, then the tensor's offset, shape and stride."""
    persistent_id = (
        pickled_text("storage") + b"ctorch\nFloatStorage\n" + pickled_text("0") + pickled_text("cpu")
    )
    sizes = b"".join(b"(" + b"".join(map(pickled_int, values)) + b"t" for values in (shape, stride))
    tensor = b"((" + persistent_id + pickled_int(storage) + b"tQ" + pickled_int(offset) + sizes + b"\x89N"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor + b"tR"
    return b"\x80\x02}" + pickled_text("latent") + call + b"s."


def archive(data: bytes, folder: str = "archive") -> bytes:
    """The pickle in an archive, with a storage of 256 bytes, as torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in {"data.pkl": data, "data/0": bytes(256), "version": b"3\n"}.items():
            file.writestr(f"{folder}/{name}", content)
    return buffer.getvalue()


def legacy_file(
    data: bytes,
    keys: bytes = pickle.dumps(["0"], 2),
    system: bytes = pickle.dumps({"little_endian": True}, 2),
) -> bytes:
    """The pickle in a file as PyTorch wrote it before 1.6, with a storage of 64 floats.

    `system` and `keys` are the pickles before and after it.
    """
    start = as_bytes(save_legacy, torch.zeros(1))
    magic = start[: start.index(b".") + 1]
    rest = pickle.dumps(1001, 2) + system
    return magic + rest + data + keys + struct.pack("<q", 64) + bytes(256)
