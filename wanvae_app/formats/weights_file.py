"""Where a VAE's weights are: in a file, a diffusers folder, or on Hugging Face."""

from __future__ import annotations

from pathlib import Path

from wanvae_app.formats.hub_repository import SUFFIXES, fetch_vae, parse_hub_source


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
            files = sorted(f for f in folder.glob("*") if f.suffix in SUFFIXES)
            if len(files) == 1:
                return files[0]
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
