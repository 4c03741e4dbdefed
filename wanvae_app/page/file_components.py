"""Gradio's file components without the copies and the empty files that they make.

Methods are set on the objects: for a subclass, Gradio would write a .pyi file beside this one.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData, ListFiles
from gradio.utils import get_upload_folder

from wanvae_app.jobs.job_state import JobState

MAX_STEM_BYTES = 200  # of a file's name without its ending; file systems allow 255 with it
PUBLISHED_PREFIX = "files-"  # of folders with links to a run's files


def without_empty_files(file: gr.File) -> gr.File:
    """Let an input of files make no temporary files at each call."""

    def preprocess(payload: ListFiles | FileData | None) -> str | list[str] | None:
        if isinstance(payload, ListFiles):
            return [given.path for given in payload]
        return None if payload is None else payload.path

    file.preprocess = preprocess  # type: ignore[method-assign]
    return file


def publish(run: JobState, latent: Path | None) -> list[str | None]:
    """Link the run's MP4 and this file of its latent into Gradio's folder, from where a program fetches them.

    Returns the links' paths. The links have the name of the run's input, with endings of their own. Gradio would copy
    the files otherwise. The links go when the run is deleted. Raises OSError on a full disk.
    """
    files = [run.video_path, latent]
    if run.published is None and any(files):
        folder = Path(get_upload_folder()) / f"{PUBLISHED_PREFIX}{secrets.token_urlsafe(24)}"
        folder.mkdir(mode=0o700, parents=True)
        run.published = folder
    links: list[str | None] = []
    for path in files:
        if path is None or run.published is None:
            links.append(None)
            continue
        link = run.published / _download_name(run, path)
        if not link.exists():
            os.link(path, link)
        links.append(str(link))
    return links


def _download_name(run: JobState, path: Path) -> str:
    """Name a run's file after its input: clip.mp4 for clip.safetensors."""
    stem = Path(run.name).stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    return f"{stem or path.stem}{path.suffix}"
