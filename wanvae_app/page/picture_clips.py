"""Several uploads that are the numbered pictures of one clip, joined to a folder that is read like a video."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

from gradio.utils import get_upload_folder

from wanvae_app.formats.picture_feed import natural_order
from wanvae_app.formats.video_container import PICTURE_DEMUXERS, find_container
from wanvae_app.page.file_components import PUBLISHED_PREFIX

MAX_PICTURES = 64  # UploadRoom keeps no more files of a visitor
NUMBERED = re.compile(r"(.*?)([0-9]{1,18})(\.\w+)")


def are_one_clip(files: list[str]) -> bool:
    """Whether these are at least two PNG or JPEG files of one name but for numbers that follow each other."""
    found = [NUMBERED.fullmatch(Path(file).name) for file in files]
    names = {(name[1], name[3].lower()) for name in found if name}
    numbers = {int(name[2]) for name in found if name}
    if len(files) < 2 or None in found or len(names) > 1 or len(numbers) < len(files):
        return False
    if max(numbers) - min(numbers) >= len(files):  # a camera's numbers: some of its photos
        return False
    there = [Path(file) for file in files if Path(file).is_file()]
    return bool(there) and all(find_container(path) in PICTURE_DEMUXERS for path in there)


def join_pictures(files: list[str]) -> Path:
    """Link the pictures of one clip into a new folder, named after the first and the last; return its path.

    `remove_joined` deletes it; so does the next start of the app. Raises ValueError, with one sentence, if they are
    more than uploads are kept, or one is gone; OSError on a full disk.
    """
    if len(files) > MAX_PICTURES:
        raise ValueError(
            f"{len(files)} pictures are more than {MAX_PICTURES}; put them into a .zip, and upload that."
        )
    if not all(Path(file).is_file() for file in files):
        raise ValueError("An uploaded picture is no longer on the server; upload them again.")
    paths = sorted(map(Path, files), key=lambda path: natural_order(path.name))
    parent = Path(get_upload_folder()) / f"{PUBLISHED_PREFIX}{secrets.token_urlsafe(24)}"
    folder = parent / f"{paths[0].stem} to {paths[-1].name}"
    parent.mkdir(mode=0o700, parents=True)
    folder.mkdir()
    for path in paths:
        os.link(path, folder / path.name)
    return folder


def is_joined(path: Path) -> bool:
    """Whether this is a folder of `join_pictures`. Visitors cannot guess its name."""
    parent = path.parent
    is_ours = parent.name.startswith(PUBLISHED_PREFIX) and parent.parent == Path(get_upload_folder())
    return is_ours and path.is_dir()


def remove_joined(folder: Path) -> None:
    """Delete the links of `join_pictures`."""
    assert is_joined(folder), folder
    shutil.rmtree(folder.parent, ignore_errors=True)
