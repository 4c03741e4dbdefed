"""The listing of packets or frames that ffmpeg's muxer "framecrc" writes: lines of numbers and of ffmpeg's own names.

    #tb 0: 1/12288
    #codec_id 0: h264
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
IS_KEY, IS_DISCARDED = 1, 4  # flags; what is discarded is decoded and not shown, by the file's edit list
MAX_STREAMS = 256  # that are listed; a picture of tiles has one for each
FIELDS = re.compile(r"#(tb|dimensions|sar) (\d+): (\d+)[/x](\d+)")
CODEC = re.compile(r"#codec_id (\d+): (\w+)")
PACKET = re.compile(r"(\d+), *(-?\d+), *(-?\d+), *(-?\d+), *\d+, 0x[0-9a-f]+(?:, F=0x([0-9A-F]+))?")
# Their frames build on others, and their key frames are marked as such in every container.
CODECS_WITH_KEY_FRAMES = ("h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4")
UNEVEN = Fraction(1, 400)  # seconds: more than milliseconds that were rounded twice
SEEKABLE_CODECS = ("h264", "hevc", "vvc", "av1", "vp9")  # each of whose packets shows a frame
REGULAR = 0.9  # of the frames that give a clip its rate
MIN_RATE, MAX_RATE = Fraction(1, 1000), Fraction(1000)  # frames per second; others are a damaged clock's


class Size(NamedTuple):
    """Width and height of a picture in pixels; as text, "640x480"."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Pace(NamedTuple):
    """How fast frames follow each other."""

    rate: float | None  # frames per second; None if the times do not tell
    is_even: bool  # whether nine of ten frames are shown equally long, to UNEVEN seconds


class Seek(NamedTuple):
    """Where decoding may begin, if the frames before a certain one are not wanted."""

    num_packets: int  # before the key frame at which it begins
    start: Fraction  # seconds: between the wanted frame and the one before


@dataclass
class StreamListing:
    """What a listing states of one stream."""

    codec: str = ""  # ffmpeg's name of it
    size: Size = Size(0, 0)
    pixel_aspect: Fraction = Fraction(0)  # a pixel's width / height; 0 if it is not stated
    tick: Fraction = Fraction(0)  # seconds
    decoding_times: list[int] = field(default_factory=list)  # of each frame that is shown, in ticks
    showing_times: list[int] = field(default_factory=list)  # the same; UNKNOWN_TIME if it is not stated
    durations: list[int] = field(default_factory=list)  # the same; 0 if it is not stated
    num_orphans: int = 0  # packets before the first key frame, which cannot be decoded
    num_packets: int = 0
    keys: list[tuple[int, int]] = field(
        default_factory=list
    )  # packets before each key frame; when it is shown
    has_discarded: bool = False

    def add_packet(self, decoded: int, shown: int, duration: int, flags: int) -> None:
        """Add a packet in the order of the file."""
        if flags & IS_KEY and self.codec in CODECS_WITH_KEY_FRAMES:
            if not self.keys:
                self.num_orphans = self.num_packets
                for times in (self.decoding_times, self.showing_times, self.durations):
                    times.clear()
            self.keys.append((self.num_packets, shown))
        self.num_packets += 1
        if flags & IS_DISCARDED:
            self.has_discarded = True
        else:
            self.decoding_times.append(decoded)
            self.showing_times.append(shown)
            self.durations.append(max(duration, 0))

    @property
    def num_frames(self) -> int:
        """How many frames are shown, as far as they were listed."""
        return len(self.durations)

    @property
    def starts(self) -> list[int]:
        """When each frame is shown, in ticks, but for a constant; in the order of the file.

        Where some times of showing are not stated, the times of decoding take their place: they are as far apart.
        """
        return self.decoding_times if UNKNOWN_TIME in self.showing_times else self.showing_times

    def seek(self, frame: int) -> Seek | None:
        """Where decoding may begin for this frame, counted from 0 as they are shown, and one before it.

        None: at the first key frame. No frame that is shown after a key frame builds on one before that.
        """
        starts = sorted(self.showing_times)
        are_known = UNKNOWN_TIME not in starts and len(set(starts)) == len(starts) and not self.has_discarded
        if self.codec not in SEEKABLE_CODECS or not are_known or not 1 < frame < len(starts):
            return None
        num_packets = max((packets for packets, shown in self.keys if shown < starts[frame]), default=0)
        if num_packets <= self.num_orphans:
            return None
        return Seek(num_packets, (starts[frame - 1] + starts[frame]) / Fraction(2) * self.tick)

    def start_of(self, frame: int) -> float | None:
        """Seconds from the file's begin until this frame is shown, counted from 0; None if it was not listed."""
        starts = sorted(self.starts)
        return max(0.0, float(starts[frame] * self.tick)) if frame < len(starts) else None

    def pace(self) -> Pace:
        """How fast the frames follow each other.

        If nine of ten frames are shown equally long, to a tick, that is their rate: players that keep to one rate shall
        not slow down for a pause, or for frames that were lost where a file was cut. Else it is the average.
        """
        starts = sorted(self.starts)
        gaps = sorted(after - before for before, after in pairwise(starts))
        median = gaps[len(gaps) // 2] if gaps else 0
        regular = [gap for gap in gaps if abs(gap - median) <= 1]
        if gaps and len(regular) >= REGULAR * len(gaps):
            rate = _rate(len(regular), sum(regular), self.tick, is_exact=regular[0] == regular[-1])
            return Pace(rate, is_even=True)
        uneven = [gap for gap in gaps if abs(gap - median) * self.tick > UNEVEN]
        shown = zip(self.starts, self.durations, strict=True)
        last = max((duration for start, duration in shown if start == starts[-1]), default=0) if starts else 0
        return Pace(
            _rate(len(gaps) + bool(last), sum(gaps) + last, self.tick),
            len(uneven) <= (1 - REGULAR) * len(gaps),
        )


@dataclass
class PacketListing:
    """The streams of a listing; filled line by line by `add`."""

    is_whole: bool = False  # it was listed to its end, without an error
    is_hung: bool = False  # the listing did not end in time
    streams: dict[int, StreamListing] = field(default_factory=dict)  # by their number

    @property
    def most_frames(self) -> int:
        """Frames of the stream that has the most so far."""
        return max((stream.num_frames for stream in self.streams.values()), default=0)

    def add(self, line: str) -> None:
        """Add a line of the listing. Other lines than those above are ignored."""
        if packet := PACKET.match(line):
            if stream := self.streams.get(int(packet[1])):
                flags = int(packet[5], 16) if packet[5] else IS_KEY
                stream.add_packet(int(packet[2]), int(packet[3]), int(packet[4]), flags)
        elif codec := CODEC.match(line):
            self._stream(int(codec[1])).codec = codec[2]
        elif stated := FIELDS.match(line):
            stream = self._stream(int(stated[2]))
            first, second = int(stated[3]), int(stated[4])
            if stated[1] == "dimensions":
                stream.size = Size(first, second)
            elif stated[1] == "sar":
                stream.pixel_aspect = Fraction(first, second or 1)
            else:
                stream.tick = Fraction(first, second or 1)

    def _stream(self, number: int) -> StreamListing:
        if number not in self.streams and len(self.streams) >= MAX_STREAMS:
            return StreamListing()  # is not kept
        return self.streams.setdefault(number, StreamListing())


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
