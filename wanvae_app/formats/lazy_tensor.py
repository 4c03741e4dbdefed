"""Stored: a tensor in a file, its values not read yet; and how a file that is not trusted is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file: what its header says, and `read`, which gives its values.

    `read` returns a contiguous tensor on the CPU, of the file's own type, and takes no more memory than the
    file is large. It raises OSError, RuntimeError or ValueError if the file has changed meanwhile.
    """

    shape: tuple[int, ...]
    dtype: str  # as the file calls it
    floating: bool
    read: Callable[[], Tensor]


class Refusal(Exception):
    """Why a file is not read: the rest of a sentence that begins with the file's name."""


def plain(text: str, length: int = 60) -> str:
    """Words out of a file, safe to show: on one line, without markup, no longer than `length`."""
    text = re.sub(r"[^\w ,.:;()\[\]{}'/|*+=-]+", "?", text[: length + 1])
    return text if len(text) <= length else f"{text[:length]}..."


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, short enough for a page, without a full stop."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return plain(line, 160).removesuffix(".")
