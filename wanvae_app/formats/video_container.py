"""Which kind of video a file is, by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PICTURE_NAMES = (".png", ".jpg", ".jpeg")  # of the pictures in a zip or a folder
PICTURES = "pictures"  # a zip or a folder of numbered pictures: no demuxer of ffmpeg
MAX_CHUNKS = 64  # of a PNG that are looked at
TS_PACKET = 188  # bytes of a transport stream's packet, before which .mts has 4 more
HEAD_BYTES = 2 * (TS_PACKET + 4) + 1


class Magic(NamedTuple):
    """Bytes by which a container is known, at an offset, and ffmpeg's name for its demuxer."""

    demuxer: str
    magic: bytes
    offset: int = 0


MAGICS = (
    *(Magic("mov", kind, 4) for kind in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    Magic("matroska", b"\x1a\x45\xdf\xa3"),
    Magic("gif", b"GIF87a"),
    Magic("gif", b"GIF89a"),
    Magic("avi", b"AVI ", 8),
    Magic("flv", b"FLV\x01"),
    Magic("ogg", b"OggS"),
    Magic("asf", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
    Magic("mpeg", b"\x00\x00\x01\xba"),
    Magic("jpeg_pipe", b"\xff\xd8\xff"),
)
PICTURE_DEMUXERS = ("png_pipe", "jpeg_pipe")
STILL_DEMUXERS = (*PICTURE_DEMUXERS, "webp_pipe")  # of which one frame is taken


def find_container(path: Path) -> str | None:
    """ffmpeg's name for the file's demuxer, PICTURES for a zip or a folder of pictures; None if it is no video.

    ffmpeg opens files with this demuxer alone. Others, such as those for playlists, open further files. A zip counts by
    the name of its first entry: checkpoints and latents are zips, too.
    """
    if path.is_dir():
        return PICTURES
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "apng" if _is_animated_png(path) else "png_pipe"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp_anim" if head[12:16] == b"VP8X" and head[20] & 2 else "webp_pipe"
    if head.startswith(b"PK\x03\x04"):
        return PICTURES if _begins_with_pictures(head) else None
    for offset, length in ((0, TS_PACKET), (4, TS_PACKET + 4)):
        if head[offset : offset + length + 1 : length] == b"GG":  # each packet's first byte
            return "mpegts"
    for demuxer, magic, offset in MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return demuxer
    return None


def is_tiled_kind(path: Path) -> bool:
    """Whether the file may be a picture of tiles: AVIF or HEIF by its brand."""
    with path.open("rb") as file:
        return file.read(12)[8:] in (
            b"avif",
            b"avis",
            b"heic",
            b"heix",
            b"heif",
            b"mif1",
            b"msf1",
            b"heim",
            b"hevc",
        )


def _is_animated_png(path: Path) -> bool:
    """Whether the chunk acTL stands before the first picture's data, as the PNG specification asks."""
    with path.open("rb") as file:
        file.seek(8)
        for _ in range(MAX_CHUNKS):
            header = file.read(8)
            if len(header) < 8 or header[4:] == b"IDAT":
                return False
            if header[4:] == b"acTL":
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, 1)
    return False


def _begins_with_pictures(head: bytes) -> bool:
    """Whether a zip's first entry is a picture or a folder."""
    length = int.from_bytes(head[26:28], "little")
    name = head[30 : 30 + length].lower()
    return name.endswith((b"/", *(suffix.encode() for suffix in PICTURE_NAMES)))
