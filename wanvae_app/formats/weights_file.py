"""Where a VAE's weights are: in a file, a diffusers folder, or on Hugging Face."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".safetensors", ".pth", ".pt")
# What is downloaded from a repository on Hugging Face.
HUB_FILES = (
    "vae/*.safetensors",
    "vae/config.json",
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "*VAE*.pth",
    "*vae*.safetensors",
)


def find_weights_file(source: str) -> Path:
    """The file with the weights: `source` itself, the one in that folder or its vae folder, or a downloaded one.

    A Hugging Face id such as Wan-AI/Wan2.1-VAE is downloaded, unless there is a file or folder of that name. Raises
    ValueError, with one sentence, if there is no file, or if there are several.
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
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix not in SUFFIXES:
        return find_weights_file(_download(source))
    raise ValueError(
        f"There is no file or folder {source}; give one, or a Hugging Face id such as Wan-AI/NAME."
    )


def _download(repository: str) -> str:
    """The folder that the repository's VAE is in after a download. Raises ValueError, with one sentence."""
    from huggingface_hub import snapshot_download  # slow to import

    try:
        return snapshot_download(repository, allow_patterns=list(HUB_FILES))
    except Exception as error:  # of the library, of its HTTP client (which changed twice), or of the system
        raise ValueError(
            f"{repository} could not be had from Hugging Face ({type(error).__name__}); download its "
            "vae folder (config.json, diffusion_pytorch_model.safetensors) or Wan2.1_VAE.pth, and name it."
        ) from error
