"""A roundtrip's latent in the format that is asked for: the app keeps it normalised, and converts it on request."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from wanvae_app.config import WanConfig
from wanvae_app.formats.latents import LATENT_FORMATS, NORMALISED_FORMAT, LatentFormat, convert_latent
from wanvae_app.jobs.budget import free_disk
from wanvae_app.jobs.job_state import JobState
from wanvae_app.page.gradio_requests import FULL

ROOM_FACTOR = 2  # bytes that must be free per byte that is written
_one_at_a_time = threading.Lock()  # a latent may take a gigabyte of memory


def find_format(name: str) -> LatentFormat:
    """The format of a name in LATENT_FORMATS. Raises ValueError, which lists them."""
    if name not in LATENT_FORMATS:
        raise ValueError(f"Unknown latent format {name!r}; choose one of {', '.join(LATENT_FORMATS)}.")
    return LATENT_FORMATS[name]


def converted(run: JobState, config: WanConfig, latent_format: LatentFormat) -> Path | None:
    """The run's latent as a file in this format, in the run's folder; None if it has none.

    Raises OSError if it cannot be written.
    """
    if run.latent_path is None or latent_format == NORMALISED_FORMAT:
        return run.latent_path
    path = run.folder / f"{run.id[:8]}-{latent_format.scaling}{latent_format.suffix}"
    if not path.is_file():
        _convert(run.latent_path, path, config, latent_format)
    return path


def converted_answer(source: Path, folder: Path, stem: str, config: WanConfig, name: str) -> Response:
    """The answer with a latent in the format of a name; its file is deleted when it was sent.

    Raises HTTPException for an unknown format and for a full disk.
    """
    try:
        latent_format = find_format(name)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    if free_disk(folder) < ROOM_FACTOR * source.stat().st_size:
        raise HTTPException(507, FULL)
    handle, text = tempfile.mkstemp(latent_format.suffix, dir=folder)
    os.close(handle)
    path = Path(text)
    try:
        _convert(source, path, config, latent_format)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    filename = f"{stem}-latent-{latent_format.scaling}{latent_format.suffix}"
    return FileResponse(path, filename=filename, background=BackgroundTask(path.unlink, missing_ok=True))


def _convert(source: Path, path: Path, config: WanConfig, latent_format: LatentFormat) -> None:
    with _one_at_a_time:
        convert_latent(source, path, config, latent_format)
