"""The raw latent that a run decoded, kept in a file: formats of more than 8 bits are decoded from it again."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wanvae_app.formats.untrusted_text import first_line

KEY = "latent"


def save_input(latent: Tensor, path: Path) -> None:
    """Write a raw latent [1, C, T, H, W] bit for bit. Raises OSError if the file cannot be written."""
    try:
        save_file({KEY: latent.detach().cpu().contiguous()}, path)
    except SafetensorError as error:
        raise OSError(first_line(error)) from error


def load_input(path: Path) -> Tensor:
    """Return the latent that `save_input` wrote. Raises FileNotFoundError if the file has been deleted."""
    return load_file(path)[KEY]
