"""Zip archives that are not trusted: their directory is bounded, and entries are read where they lie."""

from __future__ import annotations

import io
import struct
import zipfile

from wanvae_app.formats.untrusted_text import Refusal

MAX_DIRECTORY = 2**20  # bytes of an archive's directory; a whole checkpoint's has about 60 KB


class BoundedReader(io.BufferedReader):
    """Raises Refusal when a single read exceeds MAX_DIRECTORY bytes: zipfile reads the directory at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise Refusal("is an archive of too many entries; save plain tensors as .safetensors.")
        return data


def data_start(file: io.BufferedReader, entry: zipfile.ZipInfo) -> int:
    """Position of an entry's bytes. They follow its local header, which alone knows its own length."""
    file.seek(entry.header_offset)
    header: tuple[bytes, int, int] = struct.unpack("<4s22xHH", file.read(30))
    magic, name_length, extra_length = header
    if magic != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no entry where {entry.filename} should be")
    return entry.header_offset + 30 + name_length + extra_length
