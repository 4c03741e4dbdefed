"""Which files a command reads, and the name of each one's result. Needs nothing installed but Python."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class ClipFile(NamedTuple):
    """An input and where its result goes."""

    source: Path
    result: Path
    num_bytes: int  # of the input


class Found(NamedTuple):
    """An input, and the folder below which its result keeps the folders that the input lies in."""

    path: Path
    base: Path


def find_files(inputs: Iterable[str], suffixes: tuple[str, ...], out: Path) -> list[Found]:
    """Find the files that paths, folders and patterns mean, each once, in their order.

    Of folders, files with one of the suffixes are taken, those of folders inside included, but nothing hidden, nothing
    in `out`, and no folder through a link. Raises ValueError, with a sentence, for an input that means no file.
    """
    found: dict[Path, Found] = {}
    for text in inputs:
        if not text:
            raise ValueError("An input is empty; name a file, a folder or a pattern.")
        several = list(_expand(text, suffixes, out.absolute()))
        if not several:
            path = Path(text).expanduser()
            what = f"has no files of {', '.join(suffixes)}" if path.is_dir() else "means no file"
            raise ValueError(f"{text} {what}.")
        for file in several:
            found.setdefault(file.path, file)
    return list(found.values())


def name_results(files: Sequence[Found], out: Path, suffix: str) -> list[ClipFile]:
    """Name each file's result: the input's name, below `out`, in the folders that it has below its base.

    Inputs of one folder that differ in their suffix alone keep it, as in clip.pt.mp4. Inputs of several bases whose
    results would have one name get more of the folders that they lie in.
    """
    stems = Counter(file.path.with_suffix("") for file in files)
    tails = [file.path.name if stems[file.path.with_suffix("")] > 1 else file.path.stem for file in files]
    depths = [len(file.path.relative_to(file.base).parents) - 1 for file in files]  # folders in the name
    while True:
        names = [
            str(Path(*_last(file.path.parent.parts[1:], depth), tail))
            for file, depth, tail in zip(files, depths, tails, strict=True)
        ]
        counts = Counter(name.casefold() for name in names)  # some file systems do not tell capitals
        longer = [
            index
            for index, name in enumerate(names)
            if counts[name.casefold()] > 1 and depths[index] < len(files[index].path.parent.parts) - 1
        ]
        if not longer:
            break
        for index in longer:
            depths[index] += 1
    return [
        ClipFile(file.path, out / f"{name}{suffix}", _size(file.path))
        for file, name in zip(files, names, strict=True)
    ]


def _last(parts: tuple[str, ...], count: int) -> tuple[str, ...]:
    return parts[len(parts) - count :]


def _expand(text: str, suffixes: tuple[str, ...], out: Path) -> Iterator[Found]:
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        yield from (Found(file, path) for file in _in_folder(path, suffixes, out))
    elif path.exists():
        yield Found(path, path.parent)
    elif glob.has_magic(str(path)):
        plain = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        base = Path(*path.parts[:plain])
        for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
            is_result = base in out.parents and out in match.parents
            if match.is_file() and not is_result:
                yield Found(match, base)


def _in_folder(folder: Path, suffixes: tuple[str, ...], out: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(parent, name) != out
        )
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(parent, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it is gone by now; reading it will say so
        return 0
