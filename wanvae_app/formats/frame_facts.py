"""What ffmpeg knows of a video's first decoded frame: its upright size, its colours, whether it is interlaced.

ffmpeg's messages for people also state these, between titles of the file, which can state anything. They are not read.
ffmpeg writes the frame as Matroska, without the file's titles, and the numbers are read from that header (RFC 9559).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wanvae_app.formats.packet_listing import Size

# The output of the frame. Its pixels are not read, so their format does not matter; RFC 9559 has few for raw video.
OUTPUT = (
    "-frames:v",
    "1",
    "-map_metadata",
    "-1",
    "-c:v",
    "rawvideo",
    "-pix_fmt",
    "yuv420p",
    "-f",
    "matroska",
)
HEADER_BYTES = 4096  # in which the numbers stand
PARENTS = (0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x55B0)  # Segment, Tracks, TrackEntry, Video, Colour
WIDTH, HEIGHT, INTERLACED = 0xB0, 0xBA, 0x9A
MATRIX, TRANSFER, PRIMARIES = 0x55B1, 0x55BA, 0x55BB
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # by their numbers in ITU-T H.273
UNSPECIFIED = 2  # in H.273


@dataclass(frozen=True)
class FrameFacts:
    """What is known of a frame. The numbers of colours are those of ITU-T H.273."""

    size: Size  # after rotation
    is_interlaced: bool = False
    transfer: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    matrix: int = UNSPECIFIED

    @property
    def hdr(self) -> str:
        """The name of its transfer function, "PQ" or "HLG", if it is one of HDR; else ""."""
        return HDR_TRANSFERS.get(self.transfer, "")


def parse_facts(header: bytes) -> FrameFacts | None:
    """The facts in the first bytes of a Matroska file; None if it states no size."""
    numbers = dict(_numbers(header))
    size = Size(numbers.get(WIDTH, 0), numbers.get(HEIGHT, 0))
    if min(size) < 1:
        return None
    colours = (numbers.get(element, UNSPECIFIED) for element in (TRANSFER, PRIMARIES, MATRIX))
    return FrameFacts(size, numbers.get(INTERLACED) == 1, *colours)


def _numbers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the id and the value of each short element, of those inside PARENTS as well (RFC 8794)."""
    position = 0
    while position < len(data):
        id_length = _length(data[position])
        identifier = int.from_bytes(data[position : position + id_length], "big")
        position += id_length
        if position >= len(data):
            return
        size_length = _length(data[position])
        mask = (1 << 7 * size_length) - 1
        size = int.from_bytes(data[position : position + size_length], "big") & mask
        position += size_length
        content = (
            data[position:] if size == mask else data[position : position + size]
        )  # all bits: it is unknown
        position += len(content) if size == mask else size
        if identifier in PARENTS:
            yield from _numbers(content)
        elif len(content) <= 8:
            yield identifier, int.from_bytes(content, "big")


def _length(first: int) -> int:
    """Bytes of an id or a size, by the leading zeros of its first byte."""
    return 9 - first.bit_length()
