"""Where a VAE's weights are: a file, a diffusers folder, or a Hugging Face id."""

from __future__ import annotations

import re
from pathlib import Path


def locate(source: str) -> Path:
    """The weights' file for `source`: a file, a folder (or its vae folder) with one, or a Hugging Face id.

    Raises ValueError, in one sentence, where there is none, or more than one.
    """
    path, kinds = Path(source).expanduser(), (".safetensors", ".pth", ".pt")
    if path.is_file():
        return path
    if path.is_dir():
        for folder in (path, path / "vae"):
            files = sorted(f for f in folder.glob("*") if f.suffix in kinds)
            if len(files) == 1:
                return files[0]
            if files:
                raise ValueError(
                    f"{folder} holds {len(files)} weight files; name one of them, such as {files[0]}."
                )
        raise ValueError(
            f"{path} holds no weights; a diffusers folder has diffusion_pytorch_model.safetensors."
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix not in kinds:
        return locate(_download(source))
    raise ValueError(
        f"There is no file or folder {source}; give one, or a Hugging Face id such as Wan-AI/NAME."
    )


def _download(repository: str) -> str:
    from huggingface_hub import snapshot_download  # slow to import, and only an id needs it

    weights = ["vae/*.safetensors", "vae/config.json", "config.json", "diffusion_pytorch_model.safetensors"]
    try:
        return snapshot_download(repository, allow_patterns=[*weights, "*VAE*.pth", "*vae*.safetensors"])
    except Exception as error:  # the library's own, its HTTP client's (which changed twice), the system's
        raise ValueError(
            f"{repository} could not be had from Hugging Face ({type(error).__name__}); download its "
            "vae folder (config.json, diffusion_pytorch_model.safetensors) or Wan2.1_VAE.pth, and name it."
        ) from error
