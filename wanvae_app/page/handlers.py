"""What Gradio calls for the page's buttons and for the API. Nothing here issues a collective."""

from __future__ import annotations

import html
import json
import logging
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from wanvae_app.errors import plural, tell
from wanvae_app.formats.latent_file import NO_CHOICE, ClipChoice
from wanvae_app.formats.latent_origin import Misfit
from wanvae_app.formats.video import is_video
from wanvae_app.jobs.job import Phase
from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.run_setup import check_halves
from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import address_of, owner_of
from wanvae_app.page.entry import HistoryEntry
from wanvae_app.page.file_components import publish
from wanvae_app.page.gallery import gallery_html, upload_hint
from wanvae_app.page.history import History
from wanvae_app.page.latent_download import converted, find_format
from wanvae_app.page.latent_question import parse_answers
from wanvae_app.page.latent_readings import Answer, find_clips, make_choice
from wanvae_app.page.picture_clips import are_one_clip, is_joined, join_pictures, remove_joined
from wanvae_app.page.run_json import state_json
from wanvae_app.page.upload import Description, describe_upload, make_run
from wanvae_app.page.vae_advice import advising

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0  # that a click waits for a refusal; what is refused later is told by the run
MAX_DESCRIBED = 4  # of several files
UPDATE_INTERVAL = 0.25  # seconds between two updates of an API call, at most


class EventHandlers:
    """The handlers. They read files and submit runs."""

    def __init__(self, jobs: JobService, history: History, samples: list[Path]) -> None:
        self.jobs = jobs
        self.history = history
        self.samples = samples

    def choose_sample(self, event: gr.EventData) -> list[str]:
        """Return the clicked sample as the files of the page. The page sends its index, never a path."""
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if type(index) is not int:
            raise gr.Error("Click one of the samples to choose it.", print_exception=False)
        return [str(self.samples[index % len(self.samples)])]

    def choose_vae(self, vae: str, files: list[str] | None, frames: str) -> tuple[str, str]:
        """Return the HTML of the samples for a VAE, and what `describe` says of the chosen files."""
        vaes = self.jobs.vaes
        return gallery_html(self.samples, vaes[vaes.find(vae)].config), self.describe(files, vae, frames)

    def describe(self, files: list[str] | None, vae: str, frames: str = "") -> str:
        """Return a line of HTML about each chosen file: what it is for the chosen VAE, or why it is refused.

        `frames` says which ones of a video are taken, see `FrameRange.parse`.
        """
        if not files:
            vaes = self.jobs.vaes
            return upload_hint(vaes[vaes.find(vae)], self.jobs.group.device)
        if not are_one_clip(files):
            return self._describe_all(files, vae, frames)
        try:
            folder = join_pictures(files)
        except (ValueError, OSError) as error:
            return f"<p class='bad'>{html.escape(tell(error, Path(files[0]).name))}</p>"
        try:
            return self._describe_all([str(folder)], vae, frames)
        finally:
            remove_joined(folder)

    def _describe_all(self, files: list[str], vae: str, frames: str) -> str:
        lines: list[str] = []
        warned: dict[Misfit, list[str]] = {}  # names of the files that a warning is about
        for file in files[:MAX_DESCRIBED]:
            name = Path(file).name
            if len(files) > 1:
                lines.append(f"<p><b>{html.escape(name)}</b></p>")
            try:
                description = self._describe(Path(file), vae, frames)
            except (ValueError, OSError) as error:
                lines.append(f"<p class='bad'>{html.escape(tell(error, name))}</p>")
                continue
            lines.append(description_html(description))
            if description.misfit.sentence:
                warned.setdefault(description.misfit, []).append(name)
        if len(files) > 1:
            lines.insert(0, f"<p>{plural(len(files), 'file')}</p>")
        lines += [misfit_html(misfit, names if len(files) > 1 else []) for misfit, names in warned.items()]
        return "".join(lines)

    def _describe(self, path: Path, vae: str, frames: str) -> Description:
        vaes = self.jobs.vaes
        vae = vaes.find(vae)
        check_halves(tuple(Phase) if is_video(path) else (Phase.DECODE,), vae, vaes[vae].config)
        with advising(path, vaes, vae):
            return describe_upload(path, vaes[vae].config, frames)

    def start(
        self,
        files: list[str] | None,
        parallel: bool,
        chunk: float,
        scaling: str,
        vae: str,
        frames: str,
        answers: str,
        request: gr.Request,
    ) -> Iterator[str]:
        """Submit a run for each clip of each file, in their order, read as `answers` says; see `parse_answers`.

        Numbered pictures become one run. The player gets the first run's id, and follows it by the routes of routes.py;
        it gets all ids, to say that they are watched.
        """
        yield player_message(reading=", ".join(Path(file).name for file in files or ()))
        entries: list[HistoryEntry] = []
        try:
            for file, answer, choice in self._clips(files, vae, answers):
                after = entries[-1].run.id if entries else ""
                wanted = scaling if scaling != "Auto" else answer.scaling
                entries.append(
                    self._submit(file, parallel, chunk, wanted, vae, frames, request, after, choice)
                )
            if len(entries) == 1:
                wait_until_checked(entries[0].run)
                if entries[0].run.refused:
                    refused = entries.pop()
                    self.history.delete(refused)
                    raise gr.Error(refused.run.message, print_exception=False)
        except gr.Error as error:
            if not entries:
                yield player_message(error=error.message)  # the player says it, so Gradio need not
                return
            verb = "is" if len(entries) == 1 else "are"
            gr.Warning(f"{len(entries)} of the clips {verb} run: {error.message}")
        yield player_message(job=entries[0].run.id, jobs=[entry.run.id for entry in entries])

    def _clips(
        self, files: list[str] | None, vae: str, answers: str
    ) -> Iterator[tuple[str | None, Answer, ClipChoice]]:
        """The clips of all files, each with its file and what was answered about that; one without a file for none."""
        if not files:
            yield None, Answer(), NO_CHOICE
            return
        try:
            config = self.jobs.vaes[self.jobs.vaes.find(vae)].config
            by_file = parse_answers(answers)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        for index, file in enumerate(join_numbered(files)):
            answer = by_file.get(index, Answer())
            for choice in find_clips(Path(file), config, answer):
                yield file, answer, choice

    def run(
        self,
        file: str | None,
        parallel: bool,
        chunk: float,
        scaling: str,
        vae: str,
        frames: str,
        part: str,
        order: str,
        latent_format: str,
        request: gr.Request,
    ) -> Iterator[tuple[dict[str, Any], str | None, str | None]]:
        """Decode a latent, or code a video there and back, on all ranks.

        Streams the run's state as JSON: job, state, phase, frames so far of num_frames, rate in frames per second,
        elapsed seconds; of the ranks' activity what is new, the last one all. The last one comes with the MP4, and for
        a video the latent. Ending the call stops the run. `vae` is the name of one of the app's VAEs; empty: the first.
        `frames` says which frames of a video are taken, such as "1-500" or "1-2000/2"; empty: all. `part` names one of
        several latents of a file, such as "latents[1]", and `order` is "Auto", "Channels first" or "Frames first"; the
        state's `doubt` says what was not certain. `latent_format` is how a video's latent is saved: "Normalised",
        "Raw", "ComfyUI raw" or "ComfyUI normalised".
        """
        try:
            saved_as, choice = find_format(latent_format), make_choice(part, order)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        entry = self._submit(file, parallel, chunk, scaling, vae, frames, request, choice=choice)
        run, version, num_known = entry.run, None, 0
        try:
            while not entry.settled:
                run.seen()
                state = state_json(entry, num_known)
                num_known += len(state["activity"])
                yield state, None, None
                # Gradio can end this call only at a yield, so the wait must be short.
                version = run.wait(UPDATE_INTERVAL, version)
            if run.status == Status.FAILED:
                raise gr.Error(run.message, print_exception=False)
            state = state_json(entry) | {"rows": self.history.rows(entry)}
            try:
                config = self.jobs.vaes[run.job.vae].config
                video, latent = publish(run, converted(run, config, saved_as))
            except OSError as error:
                raise gr.Error(tell(error, run.name), print_exception=False) from error
            yield state, video, latent
        finally:
            if not run.ended:
                run.stop()

    def _submit(
        self,
        file: str | None,
        parallel: bool,
        chunk: float,
        scaling: str,
        vae: str,
        frames: str,
        request: gr.Request,
        after: str = "",
        choice: ClipChoice = NO_CHOICE,
    ) -> HistoryEntry:
        """Make a run and queue it, behind the one of the id `after`.

        Raises gr.Error, in one sentence, for whatever cannot be run.
        """
        if file is None:
            raise gr.Error("Choose a sample, or upload a latent or a video first.", print_exception=False)
        path = Path(file)
        try:
            run, run_input = make_run(
                self.jobs,
                path,
                parallel=parallel,
                chunk=chunk,
                scaling=scaling,
                owner=owner_of(request),
                vae=vae,
                choice=choice,
                frames=frames,
            )
            run.address, run.after = address_of(request), after
            return self.history.submit(run, run_input)
        except Exception as error:
            if not isinstance(error, (ValueError, OSError)):
                log.exception("%s was not accepted", path.name)
            if is_joined(path):
                remove_joined(path)
            raise gr.Error(tell(error, path.name), print_exception=False) from error


def join_numbered(files: list[str]) -> list[str]:
    """Return the files to run; the numbered pictures of one clip become one folder.

    Raises gr.Error, in one sentence, if they cannot be joined.
    """
    if not are_one_clip(files):
        return files
    try:
        return [str(join_pictures(files))]
    except (ValueError, OSError) as error:
        raise gr.Error(tell(error, Path(files[0]).name), print_exception=False) from error


def description_html(description: Description) -> str:
    """Return the HTML of what an upload is; what is behind it unfolds."""
    text, why = html.escape(description.text), html.escape(description.why)
    more = f" <details><summary>why?</summary>{why}</details>" if why else ""
    return f"<p>{text}{more}</p>"


def misfit_html(misfit: Misfit, names: list[str]) -> str:
    """Return the HTML of a warning about the files of these names; without names, about the only file."""
    files = f"{', '.join(names)}: " if names else ""
    tone = " class='warn'" if misfit.is_clear else ""
    return f"<p{tone}>{html.escape(files + misfit.sentence)}</p>"


def wait_until_checked(run: JobState, seconds: float = CHECK_SECONDS) -> None:
    """Wait, for `seconds` at most, until it is known whether the input can be used: by a video's header, or by all of a
    latent."""
    end, version = time.monotonic() + seconds, None
    while not (run.ended or run.is_read or (run.plan is not None and run.plan.source_bytes)):
        if (remaining := end - time.monotonic()) <= 0:
            break
        version = run.wait(remaining, version)


def player_message(**content: str | list[str]) -> str:
    """Return JSON for the player. A random number makes each message differ: Gradio passes on changes only."""
    return json.dumps({**content, "nonce": secrets.token_hex(4)})
