"""The values of --vae: SOURCE or NAME=SOURCE, and the name of each VAE on the page. Needs nothing but Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MAX_NAME = 40  # characters
NAME = re.compile(rf"\w[\w .+()-]{{0,{MAX_NAME - 1}}}")
NOT_IN_NAMES = re.compile(r"[^\w.+()-]+")
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".gguf")
# Names of files and folders that are the same for every VAE.
USUAL_NAMES = ("diffusion_pytorch_model", "vae")


class VaeSource(NamedTuple):
    """One VAE of the command line."""

    name: str  # on the page; empty: `named` takes it from the source
    source: str  # a file, a diffusers folder or a Hugging Face id, perhaps with :PATH or :PART

    @property
    def option(self) -> str:
        """The value of --vae that `parse_vae` reads as this."""
        return f"{self.name}={self.source}" if self.name else self.source


def parse_vae(text: str) -> VaeSource:
    """Split NAME=SOURCE. A text that is the path of a file or folder has no name, whatever its characters."""
    name, equals, source = text.partition("=")
    if equals and source and NAME.fullmatch(name) and not Path(text).expanduser().exists():
        return VaeSource(name.strip(), source)
    return VaeSource("", text)


def named(sources: Sequence[VaeSource]) -> list[VaeSource]:
    """Return the sources with a name each. Raises ValueError, in one sentence, if two would have the same name."""
    found = [VaeSource(name or _name_of(source), source) for name, source in sources]
    for index, (name, source) in enumerate(found):
        for other in found[:index]:
            if other.name.casefold() == name.casefold():
                raise ValueError(
                    f"--vae: {other.source} and {source} would both be called {name!r}: give names of your own, as "
                    "in --vae NAME=SOURCE."
                )
    return found


def _name_of(source: str) -> str:
    """The name of a file, folder or repository; where that is a usual one, the name of the folder around it."""
    path = Path(source).expanduser()
    file, _, part = source.rpartition(":")
    if not path.exists() and file and Path(file).expanduser().is_file():
        return NOT_IN_NAMES.sub("-", f"{_name_of(file)}-{part}").strip("-. ")[:MAX_NAME]
    parts = list((path.absolute() if path.exists() else Path(source.partition(":")[2] or source)).parts)
    if Path(parts[-1]).suffix in WEIGHTS_SUFFIXES:
        parts[-1] = Path(parts[-1]).stem
    name = next((part for part in reversed(parts) if part not in USUAL_NAMES), source)
    return NOT_IN_NAMES.sub("-", name).strip("-. ")[:MAX_NAME] or "VAE"
