"""FrameRange: which frames of a video are taken."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_FRAME = 2**18  # the last frame that can be chosen: two and a half hours at 29 frames per second
MAX_LENGTH = 80  # characters of a range: the pattern below takes long for many spaces
TEXT = re.compile(r"(?:(\d{1,9})?\s*(-)?\s*(\d{1,9})?)?\s*(?:/\s*(\d{1,9}))?", re.ASCII)


class FrameRange(NamedTuple):
    """Frames `start` to `stop` (exclusive; None: the last), counted from 0, of which each `step`-th is taken."""

    start: int = 0
    stop: int | None = None
    step: int = 1

    @classmethod
    def parse(cls, text: str) -> FrameRange:
        """Read a range as people write it: "1-500", "200-", "-80", "7", or "1-2000/2" for every second; "" is all.

        Frames count from 1 there, and the last is included. Raises ValueError, with one sentence, for other texts.
        """
        found = TEXT.fullmatch(text.strip()) if len(text) <= MAX_LENGTH else None
        if found is None:
            raise ValueError(f"{_quoted(text)} is no range of frames; {ADVICE}.")
        first, dash, last, step = found.groups()
        start = int(first) - 1 if first else 0
        stop = int(last) if last else (start + 1 if first and not dash else None)
        chosen = cls(start, stop, int(step) if step else 1)
        if start < 0 or chosen.step < 1 or start >= MAX_FRAME or (stop is not None and stop > MAX_FRAME):
            raise ValueError(
                f"{_quoted(text)} is no range of frames: they count from 1 to {MAX_FRAME}; {ADVICE}."
            )
        if stop is not None and stop <= start:
            raise ValueError(f"{_quoted(text)} ends before it begins; {ADVICE}.")
        return chosen

    @property
    def is_all(self) -> bool:
        """Whether every frame is taken."""
        return self == ALL_FRAMES

    def within(self, num_frames: int) -> range:
        """The numbers of the frames that are taken, from 0, of a video with `num_frames`."""
        return range(num_frames)[self.start : self.stop : self.step]

    def num_to_list(self, max_frames: int) -> int:
        """How many frames must be listed, to know whether more than `max_frames` of them are taken."""
        needed = self.start + self.step * max_frames + 1
        return min(needed, MAX_FRAME + 1, self.stop if self.stop is not None else needed)

    @property
    def sentence(self) -> str:
        """Which frames are taken, in a sentence."""
        which = f"Frames from {self.start + 1} on are taken"
        if self.stop is not None:
            which = f"Frames {self.start + 1} to {self.stop} are taken"
        return f"{which}, one of every {self.step}." if self.step > 1 else f"{which}."

    def __str__(self) -> str:
        first, last = self.start + 1, "" if self.stop is None else self.stop
        return f"{first}-{last}" + (f"/{self.step}" if self.step > 1 else "")


ALL_FRAMES = FrameRange()
ADVICE = 'give first and last, such as "1-500" or "200-", or "1-2000/2" for every second one'


def _quoted(text: str) -> str:
    return f"{text[:30]!r}"
