"""The names of a VAE's pieces: diffusers writes large weights as FILE-00001-of-00003.safetensors and so on."""

from __future__ import annotations

import re

PIECE = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
INDEX_SUFFIX = ".index.json"  # of the list of pieces
MAX_PIECES = 100


def pieces_of(name: str) -> list[str]:
    """The names of all pieces of the VAE that the file `name` is a piece of; the name alone if it is none.

    Raises ValueError for a piece of more than MAX_PIECES.
    """
    found = PIECE.fullmatch(name)
    if found is None:
        return [name]
    stem, _, count, suffix = found.groups()
    if not 1 <= int(count) <= MAX_PIECES:
        raise ValueError(f"{name} is a piece of {int(count)}; a VAE has at most {MAX_PIECES}.")
    return [f"{stem}-{number:05}-of-{count}{suffix}" for number in range(1, int(count) + 1)]


def without_number(name: str) -> str:
    """The name of the whole that a piece belongs to; the name itself if it is no piece."""
    return PIECE.sub(r"\1\4", name)
