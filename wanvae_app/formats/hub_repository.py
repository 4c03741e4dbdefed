"""The VAE of a Hugging Face repository: chosen from the list of its files, and fetched alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")  # the first is preferred
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?::(.+))?")  # OWNER/NAME, or OWNER/NAME:PATH
MAX_VAE_BYTES = 4 * 2**30  # Wan 2.2's in fp32 has 2.8e9; transformers have more
DIFFUSERS_FILE = "diffusion_pytorch_model"
VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema|ema)$")
NO_WAN_VAE = ("audio", "lora")  # in the names of files that are another thing beside "vae"
MAX_NAMED = 6  # files in a sentence


class HubFile(NamedTuple):
    """One file of a repository."""

    path: str  # with slashes
    num_bytes: int


class HubSource(NamedTuple):
    """What --vae names on Hugging Face."""

    repository: str  # OWNER/NAME
    path: str  # of a file or folder in it; empty: the VAE is chosen by its name


def parse_hub_source(source: str) -> HubSource | None:
    """Read OWNER/NAME or OWNER/NAME:PATH; None for another text, such as the path of a file."""
    found = REPOSITORY.fullmatch(source)
    if found is None or PurePosixPath(found[1]).suffix in SUFFIXES:
        return None
    return HubSource(found[1], (found[2] or "").strip("/"))


def without_copies(paths: Sequence[str]) -> list[str]:
    """Leave out the paths of what holds the same weights as another.

    These are a .pth beside a .safetensors, a variant in half precision beside the whole, and a diffusers folder that is
    called as a file is. All paths end in one of SUFFIXES, in any case.
    """
    by_preference = sorted(paths, key=lambda path: SUFFIXES.index(PurePosixPath(path).suffix.lower()))
    first: dict[str, str] = {}
    for path in by_preference:
        first.setdefault(str(PurePosixPath(path).with_suffix("")).lower(), path)
    stems = {PurePosixPath(stem).name for stem in first}
    return [
        path
        for stem, path in first.items()
        if VARIANT.sub("", stem) == stem or VARIANT.sub("", stem) not in first
        if not PurePosixPath(stem).name.startswith(DIFFUSERS_FILE)
        or PurePosixPath(stem).parent.name not in stems
    ]


def fetch_vae(source: HubSource) -> Path:
    """Download the VAE's file, and its config.json if it is a diffusers folder's; return where the file is.

    Without a network, files that were downloaded before are found again. Raises ValueError, with one sentence.
    """
    from huggingface_hub import HfApi, hf_hub_download  # slow to import
    from huggingface_hub.hf_api import RepoFile

    repository = source.repository
    try:
        tree = HfApi().list_repo_tree(repository, recursive=True)
        files = [HubFile(entry.path, entry.size) for entry in tree if isinstance(entry, RepoFile)]
    except Exception as error:  # of the library, of its HTTP client (which changed twice), or of the system
        folder = _downloaded_before(repository)
        if folder is None:
            raise _not_had(repository, error) from error
        files = [
            HubFile(path.relative_to(folder).as_posix(), path.stat().st_size)
            for path in folder.rglob("*")
            if path.is_file()
        ]
        try:
            return folder / choose_vae(source, files)
        except ValueError:  # it may be there, but was not downloaded
            raise _not_had(repository, error) from error
    chosen = choose_vae(source, files)
    beside = str(PurePosixPath(chosen).with_name("config.json"))
    try:
        if PurePosixPath(chosen).stem.startswith(DIFFUSERS_FILE) and beside in (file.path for file in files):
            hf_hub_download(repository, beside)
        return Path(hf_hub_download(repository, chosen))
    except Exception as error:
        raise _not_had(f"{repository}:{chosen}", error) from error


def choose_vae(source: HubSource, files: Iterable[HubFile]) -> str:
    """The path of the one file of a repository that holds its VAE, by names and sizes.

    A name is compared without regard to case. Raises ValueError, in one sentence, if none or several fit.
    """
    repository, wanted = source
    weights = [file for file in files if PurePosixPath(file.path).suffix.lower() in SUFFIXES]
    if wanted:
        found = _named(wanted, [file.path for file in weights])
    else:
        small = [file.path for file in weights if file.num_bytes <= MAX_VAE_BYTES]
        found = [path for path in small if _is_called_vae(path)]
        if not found and "vae" in repository.lower():  # a repository of one VAE may name its file as it likes
            found = small
    found = without_copies(found)
    if len(found) == 1:
        return found[0]
    if found:
        named = ", ".join(sorted(found)[:MAX_NAMED]) + (", ..." if len(found) > MAX_NAMED else "")
        raise ValueError(
            f"{repository} holds {len(found)} files that may be the VAE ({named}); choose one, as in "
            f"{repository}:{sorted(found)[0]}."
        )
    what = (
        f"no weights called {wanted}" if wanted else f"no file ({', '.join(SUFFIXES)}) with VAE in its name"
    )
    raise ValueError(
        f"{repository} holds {what}; name a file of it, as in {repository}:PATH, or another repository."
    )


def _is_called_vae(path: str) -> bool:
    """Whether a file, or the folder that it lies in, is called a VAE."""
    *folders, name = path.lower().split("/")
    if any(word in name for word in NO_WAN_VAE):
        return False
    return (
        "vae" in name or "vae" in folders or (name.startswith(DIFFUSERS_FILE) and "vae" in "/".join(folders))
    )


def _named(wanted: str, paths: Sequence[str]) -> list[str]:
    """The paths that a user means by a path, the end of one, or the folder around: the first kind that there is."""
    wanted = wanted.lower()
    kinds = (
        [path for path in paths if path.lower() == wanted],
        [path for path in paths if path.lower().endswith(f"/{wanted}")],
        [path for path in paths if f"{wanted}/" in f"{path.lower().rpartition('/')[0]}/"],
    )
    return next((found for found in kinds if found), [])


def _downloaded_before(repository: str) -> Path | None:
    """The folder of the repository's newest version in Hugging Face's cache; None if nothing was downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return snapshot if snapshot.is_dir() else None


def _not_had(what: str, error: Exception) -> ValueError:
    return ValueError(
        f"{what} could not be had from Hugging Face ({type(error).__name__}); download its "
        "vae folder (config.json, diffusion_pytorch_model.safetensors) or Wan2.1_VAE.pth, and name it."
    )
