"""The question how a file of latents is read, where its values leave that open: small pictures to click.

Each picture is decoded by a job of one frame, which waits for its turn like any other.
"""

from __future__ import annotations

import base64
import html
import io
import json
import time
from contextlib import suppress
from pathlib import Path

import gradio as gr
from PIL import Image
from torch import Tensor

from wanvae_app.formats.latent_layout import ORDERS
from wanvae_app.formats.video import is_video
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import address_of, owner_of
from wanvae_app.page.latent_readings import SCALINGS, Answer, Reading, find_readings

MAX_FILES = 4  # that are asked about
PICTURE_SECONDS = 20.0  # that the pictures of a file are waited for; then it is asked without them
PICTURE_QUALITY = 85


class LatentQuestions:
    """What the page asks about the chosen files. The page keeps the answers, and sends them when Run is clicked."""

    def __init__(self, jobs: JobService) -> None:
        self.jobs = jobs

    def ask(self, files: list[str] | None, vae: str, scaling: str, request: gr.Request) -> str:
        """Return the HTML of the questions about the files, "" if all is clear. question.js makes it clickable."""
        sections = []
        for index, file in enumerate((files or [])[:MAX_FILES]):
            readings = self._readings(file, vae, scaling)
            if len(readings) > 1:
                pictures = self._pictures(readings, vae, request)
                sections.append(_section(index, file, readings, pictures))
        return "".join(sections)

    def _readings(self, file: str, vae: str, scaling: str) -> list[Reading]:
        """The ways to read a file; none for a video, and for what cannot be read, which is told elsewhere."""
        path, vaes = Path(file), self.jobs.vaes
        try:
            return [] if is_video(path) else find_readings(path, vaes[vaes.find(vae)].config, scaling)
        except (ValueError, OSError):
            return []

    def _pictures(self, readings: list[Reading], vae: str, request: gr.Request) -> list[str]:
        """A picture of each reading's first frame as the address of an <img>, "" for those that did not come."""
        end = time.monotonic() + PICTURE_SECONDS
        runs: list[JobState | None] = []
        try:
            for reading in readings:
                with suppress(ValueError, OSError):  # no place in the queue
                    runs.append(self._submit(reading.frame, vae, request))
                    continue
                runs.append(None)
            return [_picture(run, end) for run in runs]
        finally:
            for run in runs:
                if run is not None:
                    self._forget(run)

    def _submit(self, frame: Tensor, vae: str, request: gr.Request) -> JobState:
        """Queue the decoding of one latent frame, on rank 0 alone."""
        run = self.jobs.new_run(
            latent=frame, parallel=False, owner=owner_of(request), name="a first frame", vae=vae
        )
        run.address = address_of(request)
        run.is_pinned = True  # so that it takes no place among those that are kept
        self.jobs.submit(run)
        return run

    def _forget(self, run: JobState) -> None:
        """Delete a run, which is ended first."""
        if not run.ended:
            run.stop()
            _wait_until_ended(run, time.monotonic() + PICTURE_SECONDS)
        self.jobs.store.delete(run)


def parse_answers(text: str) -> dict[int, Answer]:
    """The answers that the page sent, by the number of the file. Raises ValueError for what the page does not send."""
    answers = {}
    try:
        for item in json.loads(text) if text else ():
            answer = Answer(item["scaling"], item["order"], item["part"])
            is_known = answer.scaling in SCALINGS and answer.order in ("", *ORDERS)
            if not is_known or type(answer.part) is not str or type(item["file"]) is not int:
                raise ValueError(f"{item} is no answer")
            answers[item["file"]] = answer
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("The answers could not be understood: reload the page, and click again.") from error
    return answers


def _wait_until_ended(run: JobState, end: float) -> None:
    version = None
    while not run.ended and (remaining := end - time.monotonic()) > 0:
        version = run.wait(remaining, version)


def _picture(run: JobState | None, end: float) -> str:
    """The frame of a run as the address of an <img>, "" if it has none by then."""
    if run is None:
        return ""
    _wait_until_ended(run, end)
    if not len(run.frames):
        return ""
    data = io.BytesIO()
    Image.fromarray(run.frames.read(0, 1)[0]).save(data, "JPEG", quality=PICTURE_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _section(index: int, file: str, readings: list[Reading], pictures: list[str]) -> str:
    """The HTML of the question about one file: a sentence, and a button for each way to read it."""
    buttons = []
    for reading, picture in zip(readings, pictures, strict=True):
        answer = {name: html.escape(value) for name, value in reading.answer._asdict().items()}
        image = f'<img alt="" src="{picture}">' if picture else ""
        buttons.append(
            f'<button type="button" class="reading" data-file="{index}" data-scaling="{answer["scaling"]}" '
            f'data-order="{answer["order"]}" data-part="{answer["part"]}" aria-pressed="false">{image}'
            f"<span>{html.escape(reading.label)}</span></button>"
        )
    name = html.escape(Path(file).name)
    is_open = any(reading.answer.part == "" for reading in readings[1:])
    sentence = (
        "can be read in these ways. Click the picture that looks right; else the first is taken."
        if is_open
        else "holds more than one latent. The first is taken, unless you click another."
    )
    return f'<section><p><b>{name}</b> {sentence}</p><div class="readings">{"".join(buttons)}</div></section>'
