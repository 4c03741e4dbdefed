"""The process that takes numbered pictures out of a zip or a folder: a file that is not trusted, so it has limits.

`pictures` starts it with the path as its argument: it writes how many pictures there are, and of which kind. With
three numbers more, the first picture (from 0), the one after the last, and the step, it writes these pictures one
after the other. A refusal is one sentence on its error output, without its subject.
"""

from __future__ import annotations

import io
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO

from wanvae_app.formats.untrusted_text import Refusal, printable
from wanvae_app.formats.video_container import PICTURE_NAMES
from wanvae_app.formats.zip_archive import BoundedReader

MAX_PICTURE_BYTES = 2**27  # of one picture in its own format
PIECE = 2**20  # bytes that are read at once
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others take much memory
KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}  # by first bytes
REFUSED = 3  # exit status

Opener = Callable[[], IO[bytes]]


def main(path: Path, *numbers: int) -> None:
    """Write what the numbers ask for to the standard output. Raises Refusal."""
    out = sys.stdout.buffer
    if path.is_dir():
        files = {file.name: partial(io.FileIO, file) for file in path.iterdir() if file.is_file()}
        return write(files, out, numbers)
    try:
        with BoundedReader(io.FileIO(path)) as file:
            archive = zipfile.ZipFile(file)
            entries = {entry.filename: partial(_open, archive, entry) for entry in archive.infolist()}
            write(entries, out, numbers)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise Refusal("is a damaged zip; save it again.") from error


def write(files: Mapping[str, Opener], out: IO[bytes], numbers: tuple[int, ...]) -> None:
    """Write the count and kind of the pictures among these files, or the pictures that the numbers choose."""
    names = sorted((name for name in files if is_picture(name)), key=natural_order)
    if not names:
        raise Refusal("holds no pictures; give a zip of numbered .png or .jpg.")
    with files[names[0]]() as file:
        kind = kind_of(file.read(8), names[0])
    if not numbers:
        out.write(f"{len(names)} {kind}".encode())
    for name in names[slice(*numbers)] if numbers else ():
        with files[name]() as file:
            head = file.read(8)
            if kind_of(head, name) != kind:
                raise Refusal(f"holds PNG and JPEG pictures, such as {printable(name)}; give one kind.")
            out.write(head)
            num_bytes = len(head)
            while piece := file.read(PIECE):
                num_bytes += len(piece)
                if num_bytes > MAX_PICTURE_BYTES:
                    raise Refusal(
                        f"holds a picture of more than {MAX_PICTURE_BYTES >> 20} MiB: {printable(name)}."
                    )
                out.write(piece)


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken. What macOS and others hide beside the pictures is not."""
    parts = name.split("/")
    hidden = parts[-1].startswith(".") or "__MACOSX" in parts
    return not hidden and parts[-1].lower().endswith(PICTURE_NAMES)


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key by which 2.png stands before 10.png: numbers by their value, which may have any number of digits."""
    parts = re.split(r"([0-9]+)", name)
    digits = [part.lstrip("0") for part in parts[1::2]]
    key = [(0, part) for part in parts]
    key[1::2] = [(len(number), number) for number in digits]
    return key


def kind_of(head: bytes, name: str) -> str:
    """The kind of a picture, by its first bytes."""
    for magic, kind in KINDS.items():
        if head.startswith(magic):
            return kind
    raise Refusal(f"holds a file that is no PNG or JPEG by its content: {printable(name)}.")


def _open(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    if entry.flag_bits & 1 or entry.compress_type not in METHODS:
        raise Refusal("is encrypted or packed in a rare way; save it as a plain zip.")
    return archive.open(entry)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
        sys.stdout.flush()
    except BrokenPipeError:  # ffmpeg has enough
        os._exit(0)  # else Python would try once more to write what is left
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(REFUSED)
    except MemoryError:
        print("takes too much memory; give a smaller one.", file=sys.stderr)
        sys.exit(REFUSED)
