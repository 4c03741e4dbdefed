"""Where a VAE's weights are: in a file, a diffusers folder, or on Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from wanvae_app.formats.hub_repository import SUFFIXES, fetch_vae, parse_hub_source, without_copies
from wanvae_app.formats.pieces import INDEX_SUFFIX, pieces_of

MAX_INDEX = 2**24  # bytes of the list of a VAE's pieces


class WeightsFile(NamedTuple):
    """A file of weights, and which part of it is meant."""

    path: Path  # of a VAE in pieces: its first piece
    part: str = ""  # how the names of the part's tensors begin; empty: the part is chosen by meaning


def find_weights_file(source: str) -> WeightsFile:
    """The file with the weights: `source` itself, the one in that folder or its vae folder, or a downloaded one.

    The VAE of a Hugging Face id such as Wan-AI/Wan2.1-T2V-1.3B is downloaded, unless there is a file or folder of that
    name; OWNER/NAME:PATH names one of several. FILE:PART names one of several VAEs in a file. Raises ValueError, with
    one sentence, if there is no file, or if there are several.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return WeightsFile(_first_piece(path) if path.name.endswith(INDEX_SUFFIX) else path)
    if path.is_dir():
        return WeightsFile(_in_folder(path))
    file, colon, part = source.rpartition(":")
    if colon and Path(file).expanduser().is_file():
        return WeightsFile(find_weights_file(file).path, part)
    if (hub_source := parse_hub_source(source)) is not None:
        return WeightsFile(fetch_vae(hub_source), hub_source.part)
    raise ValueError(
        f"There is no file or folder {source}; give one, or a Hugging Face id such as Wan-AI/NAME."
    )


def all_pieces(path: Path) -> list[Path]:
    """The file, or all pieces of the VAE that it is a piece of. Raises ValueError if one is missing."""
    pieces = [path.with_name(name) for name in pieces_of(path.name)]
    missing = [piece.name for piece in pieces if not piece.is_file()]
    if missing:
        raise ValueError(f"{path.parent} lacks {missing[0]}, one of the {len(pieces)} pieces of its VAE.")
    return pieces


def _in_folder(path: Path) -> Path:
    """The file with the weights in a folder, or in its vae folder."""
    for folder in (path, path / "vae"):
        names = [file.name for file in folder.glob("*") if file.suffix.lower() in SUFFIXES]
        files = sorted(folder / name for name in without_copies(names))
        if len(files) == 1:
            return files[0]
        if files:
            raise ValueError(
                f"{folder} holds {len(files)} weight files; name one of them, such as {files[0]}."
            )
    raise ValueError(f"{path} holds no weights; a diffusers folder has diffusion_pytorch_model.safetensors.")


def _first_piece(index: Path) -> Path:
    """The first of the pieces that an index names. Raises ValueError if it names none."""
    try:
        if index.stat().st_size > MAX_INDEX:
            raise ValueError(f"it has more than {MAX_INDEX} bytes")
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return index.with_name(Path(names[0]).name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index.name} is no list of a VAE's pieces.") from error
