"""Text that comes from an uploaded file: made safe to show. And Refusal, the reason why a file is not read."""

from __future__ import annotations

import re

MAX_ERROR_LENGTH = 160  # characters of an exception's message on a page


class Refusal(Exception):
    """Why a file is not read. The message is a sentence without its subject, which is the file's name."""


def printable(text: str, length: int = 60) -> str:
    """Text from a file on one line, without markup, cut to `length` characters and "..." if it is longer."""
    text = re.sub(r"[^\w ,.:;()\[\]{}'/|*+=-]+", "?", text[: length + 1])
    return text if len(text) <= length else f"{text[:length]}..."


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, printable, without a full stop; its class name if it has none."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return printable(line, MAX_ERROR_LENGTH).removesuffix(".")
