"""A picture of tiles, as AVIF or HEIF holds it (ISO/IEC 23008-12): tiles of a still picture, and a grid of them."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np


class TileKind(NamedTuple):
    """A codec of tiles: its encoder in ffmpeg, the kind of item, the box with its settings, the file's brand."""

    encoder: tuple[str, ...]
    item: bytes
    settings: bytes
    brand: bytes


AVIF = TileKind(("libaom-av1", "-crf", "0", "-cpu-used", "8"), b"av01", b"av1C", b"avif")
HEIC = TileKind(
    ("libx265", "-x265-params", "lossless=1:log-level=none", "-tag:v", "hvc1"), b"hvc1", b"hvcC", b"heic"
)


def write_tiles(
    path: Path, pixels: np.ndarray, columns: int, rows: int, kind: TileKind, quarter_turns: int = 0
) -> Path:
    """Write uint8 [H, W, 3] as columns x rows tiles, nearly lossless; returns the path.

    The file asks for the picture to be turned to the left as often as `quarter_turns` says.
    """
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    parts = [
        pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(rows)
        for column in range(columns)
    ]
    tiles = [_encode(np.ascontiguousarray(part), path.with_suffix(".mp4"), kind) for part in parts]
    entries = [_full("infe", 2 << 24, struct.pack(">HH4sB", 1, 0, b"grid", 0))]
    entries += [
        _full("infe", 2 << 24 | 1, struct.pack(">HH4sB", i + 2, 0, kind.item, 0)) for i in range(len(tiles))
    ]
    items = _full("iinf", 0, struct.pack(">H", len(entries)), *entries)
    references = struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *range(2, 2 + len(tiles)))
    sizes = [struct.pack(">II", w, h) for w, h in ((pixels.shape[1], pixels.shape[0]), (width, height))]
    properties = [_full("ispe", 0, size) for size in sizes]
    properties += [tiles[0][0], _full("pixi", 0, bytes([3, 8, 8, 8])), _box("irot", bytes([quarter_turns]))]
    links = struct.pack(">IHBBBB", 1 + len(tiles), 1, 3, 1, 4, 0x85)
    links += b"".join(struct.pack(">HBBBB", i + 2, 3, 2, 0x83, 4) for i in range(len(tiles)))
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, pixels.shape[1], pixels.shape[0])

    def meta(base: int) -> bytes:
        places = [struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(grid))]
        for i, (_, data) in enumerate(tiles):
            places.append(struct.pack(">HHHHII", i + 2, 0, 0, 1, base, len(data)))
            base += len(data)
        return _full(
            "meta",
            0,
            _full("hdlr", 0, struct.pack(">I4s12xB", 0, b"pict", 0)),
            _full("pitm", 0, struct.pack(">H", 1)),
            _full("iloc", 1 << 24, struct.pack(">HH", 0x4400, len(places)), *places),
            items,
            _full("iref", 0, _box("dimg", references)),
            _box("iprp", _box("ipco", *properties), _full("ipma", 0, links)),
            _box("idat", grid),
        )

    start = _box("ftyp", kind.brand, bytes(4), b"mif1", kind.brand)
    base = len(start) + len(meta(0)) + 8
    path.write_bytes(start + meta(base) + _box("mdat", *(data for _, data in tiles)))
    return path


def _encode(pixels: np.ndarray, path: Path, kind: TileKind) -> tuple[bytes, bytes]:
    """The settings' box and the data of a picture, taken out of an MP4 of one frame."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-loglevel",
        "error",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
    ]
    command += ["-s", f"{pixels.shape[1]}x{pixels.shape[0]}", "-i", "pipe:0", "-pix_fmt", "yuv444p", "-c:v"]
    subprocess.run([*command, *kind.encoder, path], input=pixels.tobytes(), check=True)
    content = path.read_bytes()
    return _find(content, kind.settings), _find(content, b"mdat")[8:]


def _find(content: bytes, kind: bytes) -> bytes:
    start = content.index(kind) - 4
    return content[start : start + int.from_bytes(content[start : start + 4], "big")]


def _box(kind: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind.encode() + body


def _full(kind: str, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)
