"""The VAE of a Hugging Face repository: chosen from the list of its files, and fetched alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from wanvae_app.formats.pieces import pieces_of, without_number

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".gguf")  # the first is preferred
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?::(.+))?")  # OWNER/NAME, or OWNER/NAME:PATH
MAX_VAE_BYTES = 4 * 2**30  # Wan 2.2's in fp32 has 2.8e9; transformers have more
DIFFUSERS_FILE = "diffusion_pytorch_model"
VARIANT = re.compile(r"\.(fp32|ema|bf16|fp16|non_ema)$")
VARIANTS = ("", "fp32", "ema", "bf16", "fp16", "non_ema")  # the first is preferred
PART = re.compile(rf"(.+(?:{'|'.join(map(re.escape, SUFFIXES))})):(.+)", re.IGNORECASE)  # PATH:PART
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
    part: str = ""  # of the file, as in `WeightsFile`


def parse_hub_source(source: str) -> HubSource | None:
    """Read OWNER/NAME, OWNER/NAME:PATH or OWNER/NAME:PATH:PART; None for another text, such as the path of a file."""
    found = REPOSITORY.fullmatch(source)
    if found is None or PurePosixPath(found[1]).suffix in SUFFIXES:
        return None
    path = (found[2] or "").strip("/")
    parted = PART.fullmatch(path)
    return HubSource(found[1], *parted.groups()) if parted else HubSource(found[1], path)


def without_copies(paths: Sequence[str]) -> list[str]:
    """Leave out the paths of what holds the same weights as another.

    These are a .pth beside a .safetensors, a variant in half precision beside the whole, pieces beside the whole, all
    pieces but the first, and a diffusers folder that is called as a file is. All paths end in one of SUFFIXES, in any
    case.
    """
    first: dict[str, str] = {}
    for path in sorted(paths, key=_preference):
        first.setdefault(VARIANT.sub("", _stem(path)), path)
    stems = {PurePosixPath(stem).name for stem in first}
    return [
        path
        for stem, path in first.items()
        if not PurePosixPath(stem).name.startswith(DIFFUSERS_FILE)
        or PurePosixPath(stem).parent.name not in stems
    ]


def _stem(path: str) -> str:
    """A path in lower case, without suffix and a piece's number."""
    return str(PurePosixPath(without_number(path)).with_suffix("")).lower()


def _preference(path: str) -> tuple[int, int, bool, str]:
    """A key that sorts copies of the same weights, the best first: by variant, by format, in one piece or several."""
    variant = VARIANT.search(_stem(path))
    order = VARIANTS.index(variant[1] if variant else "")
    return order, SUFFIXES.index(PurePosixPath(path).suffix.lower()), without_number(path) != path, path


def fetch_vae(source: HubSource) -> Path:
    """Download the VAE's file, and its config.json if it is a diffusers folder's; return where the file is.

    Of a VAE in pieces, all are downloaded, and the first is returned. Without a network, files that were downloaded
    before are found again. Raises ValueError, with one sentence.
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
        pieces = [
            str(PurePosixPath(chosen).with_name(name)) for name in pieces_of(PurePosixPath(chosen).name)
        ]
        return [Path(hf_hub_download(repository, piece)) for piece in pieces][0]
    except Exception as error:
        raise _not_had(f"{repository}:{chosen}", error) from error


def choose_vae(source: HubSource, files: Iterable[HubFile]) -> str:
    """The path of the one file of a repository that holds its VAE, by names and sizes.

    A name is compared without regard to case. Raises ValueError, in one sentence, if none or several fit.
    """
    repository, wanted, _ = source
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
