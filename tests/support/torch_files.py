"""PyTorch files for the tests of readers: the old format, pickles that run code, and files as bytes."""

from __future__ import annotations

import io
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
