"""Exceptions: as a sentence for the page, and freed from what their tracebacks hold. Counts in such sentences."""

from __future__ import annotations

import errno
import re
import traceback

MAX_LENGTH = 300  # characters of a message
# Gloo's messages begin with a position in its source and end with advice for its developers.
GLOO_POSITION = re.compile(r"^\[\S+:\d+\] ")
GLOO_ADVICE = re.compile(r"\. This is typically caused by .*")


def describe(error: BaseException) -> str:
    """An exception as a sentence without a full stop: its type, and the first line of its message."""
    text = str(error).strip().partition("\n")[0]
    text = GLOO_ADVICE.sub("", GLOO_POSITION.sub("", text))[:MAX_LENGTH].rstrip(" .")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_lost_connection(error: BaseException) -> bool:
    """Whether gloo says that another rank has closed its connection, or is silent: the cause lies there."""
    return isinstance(error, RuntimeError) and GLOO_POSITION.match(str(error)) is not None


def tell(error: Exception, name: str) -> str:
    """An exception about the file `name` as a sentence for the user. No path of the server stands in it.

    ValueErrors, and OSErrors of our own, hold a sentence already.
    """
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{name} needs more disk than the server has left; try again when there is room."
        return f"{name} cannot be used, because of a fault of the server: {error.strerror}."
    if isinstance(error, (ValueError, OSError)):
        text = str(error)
        return text if text.endswith(".") else f"{text[:1].upper()}{text[1:]}."
    if isinstance(error, MemoryError):
        return f"{name} needs more memory than the server has left; try again when there is room."
    return f"{name} could not be read ({type(error).__name__}); the log says more."


def join_sentences(*parts: str) -> str:
    """Join sentences, each with or without a full stop."""
    return " ".join(f"{part.removesuffix('.')}." for part in parts)


def plural(count: int, noun: str) -> str:
    """A count and its noun, such as "1 frame" and "2 frames"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def forget(error: BaseException | None) -> None:
    """Free what the frames of an exception's traceback hold, such as the memory of tensors and the sockets of a process
    group. Does the same for the exceptions that caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
