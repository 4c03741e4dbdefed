"""Where a VAE's weights are: in a file, a diffusers folder, or on Hugging Face."""

from __future__ import annotations

import re
from pathlib import Path

from wanvae_app.formats.hub_repository import SUFFIXES, fetch_vae, parse_hub_source, without_copies

SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # at the end of a piece's name, as diffusers writes it


def find_weights_file(source: str) -> Path:
    """The file with the weights: `source` itself, the one in that folder or its vae folder, or a downloaded one.

    The VAE of a Hugging Face id such as Wan-AI/Wan2.1-T2V-1.3B is downloaded, unless there is a file or folder of that
    name; OWNER/NAME:PATH names one of several. Raises ValueError, with one sentence, if there is no file, or if there
    are several.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        for folder in (path, path / "vae"):
            names = [file.name for file in folder.glob("*") if file.suffix.lower() in SUFFIXES]
            files = sorted(folder / name for name in without_copies(names))
            if len(files) == 1 and not SHARD.search(files[0].stem):
                return files[0]
            if files and all(SHARD.search(file.stem) for file in files):
                raise ValueError(
                    f"{folder} holds a VAE in {len(files)} pieces; save it in one, with "
                    "vae.save_pretrained(folder, max_shard_size='10GB')."
                )
            if files:
                raise ValueError(
                    f"{folder} holds {len(files)} weight files; name one of them, such as {files[0]}."
                )
        raise ValueError(
            f"{path} holds no weights; a diffusers folder has diffusion_pytorch_model.safetensors."
        )
    if (hub_source := parse_hub_source(source)) is not None:
        return fetch_vae(hub_source)
    raise ValueError(
        f"There is no file or folder {source}; give one, or a Hugging Face id such as Wan-AI/NAME."
    )
