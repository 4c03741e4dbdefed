"""The listing of a stream's packets or frames that ffmpeg's muxer "framecrc" writes: lines of numbers only.

    #tb 0: 1/12288
    #dimensions 0: 64x48
    #sar 0: 2/1
    0,      -2048,          0,     1024,     1659, 0xe08dc39e

A packet's line holds its stream, decoding time, showing time, duration, bytes, checksum, and flags unless it is a key
frame without others. The times count ticks of "tb" seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

UNKNOWN_TIME = -(2**63)
IS_DISCARDED = 4  # a flag: the frame is decoded and not shown, by the file's edit list
FIELDS = re.compile(r"#(tb|dimensions|sar) 0: (\d+)[/x](\d+)")
PACKET = re.compile(r"0, *(-?\d+), *(-?\d+), *(-?\d+), *\d+, 0x[0-9a-f]+(?:, F=0x([0-9A-F]+))?")
REGULAR = 0.9  # of the frames that give a clip its rate
MIN_RATE, MAX_RATE = Fraction(1, 1000), Fraction(1000)  # frames per second; others are a damaged clock's


class Size(NamedTuple):
    """Width and height of a picture in pixels; as text, "640x480"."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass
class PacketListing:
    """What a listing states; filled line by line by `add`."""

    is_there: bool = False  # the stream exists
    is_whole: bool = False  # it was listed to its end, without an error
    is_hung: bool = False  # the listing did not end in time
    size: Size = Size(0, 0)
    pixel_aspect: Fraction = Fraction(0)  # a pixel's width / height; 0 if it is not stated
    tick: Fraction = Fraction(0)  # seconds
    starts: list[int] = field(default_factory=list)  # of each frame that is shown, in ticks
    durations: list[int] = field(default_factory=list)  # the same; 0 if it is not stated

    def add(self, line: str) -> None:
        """Add a line of the listing. Other lines than those above are ignored."""
        if packet := PACKET.match(line):
            decoded, shown, duration = int(packet[1]), int(packet[2]), int(packet[3])
            if not int(packet[4] or "0", 16) & IS_DISCARDED:
                self.starts.append(decoded if shown == UNKNOWN_TIME else shown)
                self.durations.append(max(duration, 0))
        elif stated := FIELDS.match(line):
            self.is_there = True
            first, second = int(stated[2]), int(stated[3])
            if stated[1] == "dimensions":
                self.size = Size(first, second)
            elif stated[1] == "sar":
                self.pixel_aspect = Fraction(first, second or 1)
            else:
                self.tick = Fraction(first, second or 1)

    def rate(self) -> float | None:
        """Frames per second; None if the times do not tell.

        If nine of ten frames are shown equally long, to a tick, that is their rate: players that keep to one rate shall
        not slow down for a pause, or for frames that were lost where a file was cut. Else it is the average.
        """
        starts = sorted(self.starts)
        gaps = sorted(after - before for before, after in pairwise(starts))
        median = gaps[len(gaps) // 2] if gaps else 0
        regular = [gap for gap in gaps if abs(gap - median) <= 1]
        if gaps and len(regular) >= REGULAR * len(gaps):
            return _rate(len(regular), sum(regular), self.tick, is_exact=regular[0] == regular[-1])
        shown = zip(self.starts, self.durations, strict=True)
        last = max((duration for start, duration in shown if start == starts[-1]), default=0)
        return _rate(len(gaps) + bool(last), sum(gaps) + last, self.tick)


def _rate(num_frames: int, ticks: int, tick: Fraction, *, is_exact: bool = False) -> float | None:
    """Frames per second, from the time that a number of frames takes; None for an impossible rate.

    Clocks of some files are coarse, 1,000 ticks a second, or 100. A whole rate, or one of 1,000/1,001 of that, is taken
    if it explains the time to a tick, unless that is exact.
    """
    if ticks <= 0 or not tick or not MIN_RATE <= (rate := num_frames / (ticks * tick)) <= MAX_RATE:
        return None
    for usual in (Fraction(round(rate)), Fraction(round(rate * 1001 / 1000) * 1000, 1001)):
        if not is_exact and usual and abs(num_frames / usual / tick - ticks) <= 1:
            return float(usual)
    return float(rate)
