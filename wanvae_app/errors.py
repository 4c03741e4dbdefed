"""Exceptions: as a sentence for the page, and out of the way of what they hold."""

from __future__ import annotations

import re
import traceback

MAX_LENGTH = 300
# Gloo opens with its source's position, and closes with advice for its developers.
GLOO_POSITION = re.compile(r"^\[\S+:\d+\] ")
GLOO_ADVICE = re.compile(r"\. This is typically caused by .*")


def describe(error: BaseException) -> str:
    """An exception in a sentence, without a full stop: its kind and the first line of what it says."""
    text = str(error).strip().partition("\n")[0]
    text = GLOO_ADVICE.sub("", GLOO_POSITION.sub("", text))[:MAX_LENGTH].rstrip(" .")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def forget(error: BaseException | None) -> None:
    """Free what the frames of an exception's traceback hold: a process group there keeps its sockets open, a
    tensor its memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
