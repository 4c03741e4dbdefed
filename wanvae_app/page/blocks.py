"""The page: a Gradio app around the player in assets/page, which follows a run by the routes of routes.py.

results = Results(jobs)
build_page(jobs, results).queue().launch(**launch_arguments(jobs, results))
"""

from __future__ import annotations

import html
import json
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from wanvae_app.assets import PAGE, SAMPLES
from wanvae_app.jobs.job import Status
from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import VisitorMiddleware, owner_of
from wanvae_app.page.gallery import LATENT_TYPES, VIDEO_TYPES, find_samples, gallery_cards, header
from wanvae_app.page.history import Entry, History
from wanvae_app.page.routes import make_routes, snapshot
from wanvae_app.page.upload import MAX_CHUNK, SCALINGS, describe, make_run

log = logging.getLogger(__name__)

SCRIPTS = (
    "feed.js",
    "timeline.js",
    "panel.js",
    "player.js",
    "follow.js",
)  # one function's body, in this order
HINT = f"<p class='hint'>Latents: {' '.join(LATENT_TYPES)}<br>Videos: {' '.join(VIDEO_TYPES)}</p>"
DAY = 24 * 3600


def launch_arguments(jobs: JobService, history: History) -> dict[str, Any]:
    """What `Blocks.launch` needs for this page; the routes go in there, so that none is missing at first."""
    font = ("ui-sans-serif", "system-ui", "sans-serif")
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="zinc",
        font=font,
        font_mono=("ui-monospace", "monospace"),
        radius_size="sm",
    )
    return {
        "theme": theme,
        "css_paths": [PAGE / "page.css", PAGE / "player.css"],
        "head": f"<script>{(PAGE / 'head.js').read_text()}</script>",
        "app_kwargs": {
            "routes": make_routes(jobs, history),
            "middleware": [Middleware(VisitorMiddleware)],
            "openapi_url": None,  # FastAPI's description would be there without a password
        },
        "max_file_size": "4gb",
        "footer_links": ["api"],
        "show_error": True,
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
    }


def build_page(jobs: JobService, history: History, samples: Path = SAMPLES) -> gr.Blocks:
    """The page for these jobs. `samples` is a folder of latents and clips, each with a .jpg beside it."""
    handlers = Handlers(jobs, history, find_samples(samples, jobs.vae.config))
    num_ranks = jobs.group.size
    # A day: a page may still show an upload and run it again.
    with gr.Blocks(title="Wan VAE", fill_width=True, delete_cache=(3600, DAY)) as page:
        gr.HTML(header(jobs), elem_id="header", apply_default_css=False)
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=0, min_width=300, elem_id="controls"):
                gallery = gr.HTML(
                    gallery_cards(handlers.samples),
                    js_on_load=(PAGE / "gallery.js").read_text(),
                    elem_id="samples",
                    apply_default_css=False,
                )
                # Not limited to some types: the content decides, and after refusing a name the component is stuck.
                file = only_uploads(gr.File(label="Latent or video", height=108, elem_id="file"))
                about = gr.HTML(HINT, elem_id="about", apply_default_css=False)
                parallel = gr.Checkbox(
                    num_ranks > 1,
                    label=f"Parallel ({num_ranks} rank{'s' * (num_ranks != 1)})",
                    info="Off: rank 0 works alone, to compare.",
                    elem_id="parallel",
                )
                chunk = gr.Slider(
                    1,
                    MAX_CHUNK,
                    jobs.vae.default_chunk,
                    step=1,
                    label="Latent frames per chunk",
                    elem_id="chunk",
                    buttons=[],
                )
                scaling = gr.Radio(SCALINGS, value="Auto", label="Latent scaling", elem_id="scaling")
                with gr.Row(elem_id="actions"):
                    run = gr.Button("Run", variant="primary", elem_id="run", min_width=90)
                    stop = gr.Button("Stop", elem_id="stop", min_width=90)
            with gr.Column(scale=1, min_width=320, elem_id="viewer"):
                player = gr.HTML(
                    "",
                    html_template=(PAGE / "player.html").read_text(),
                    js_on_load="\n".join((PAGE / name).read_text() for name in SCRIPTS),
                    elem_id="player",
                    apply_default_css=False,
                )
        inputs = [file, parallel, chunk, scaling]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gallery.select(handlers.pick, None, file, **private)
        file.change(handlers.describe, file, about, concurrency_limit=4, **private)
        run.click(handlers.start, inputs, player, concurrency_limit=4, trigger_mode="once", **private)
        stop.click(None, js="() => window.wanvae.stop()")

        # The same job for programs; its components are never shown.
        trigger = gr.Button(visible=False)
        outputs = [
            gr.JSON(label="State", visible=False),
            gr.File(label="MP4", visible=False),
            gr.File(label="Latent", visible=False),
        ]
        trigger.click(handlers.run, inputs, outputs, api_name="run", concurrency_limit=None)
    return page


def only_uploads(file: gr.File) -> gr.File:
    """The component, without Gradio's readiness to fetch an address for whoever names one, however large.

    Set on the object, because Gradio writes a .pyi beside the source of each new class of components.
    """
    original = file.async_move_resource_to_block_cache

    async def keep(path: str | Path | None) -> str | None:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("Upload the file itself: addresses are not fetched.", print_exception=False)
        return await original(path)

    file.async_move_resource_to_block_cache = keep  # type: ignore[assignment, method-assign]
    return file


class Handlers:
    """What Gradio calls. They read files and submit runs; nothing here waits for another rank."""

    def __init__(self, jobs: JobService, history: History, samples: list[Path]) -> None:
        self.jobs = jobs
        self.history = history
        self.samples = samples

    def pick(self, event: gr.EventData) -> str:
        """A click on a sample; the page sends its number, never a path."""
        index = event._data["index"]
        return str(self.samples[index % len(self.samples)])

    def describe(self, file: str | None) -> str:
        """A line about the chosen file."""
        if file is None:
            return HINT
        try:
            return f"<p>{html.escape(describe(Path(file), self.jobs.vae.config))}</p>"
        except (ValueError, OSError) as error:
            return f"<p class='bad'>{html.escape(str(error))}</p>"

    def start(
        self, file: str | None, parallel: bool, chunk: float, scaling: str, request: gr.Request
    ) -> Iterator[str]:
        """Submit a run; the player learns its id and follows it by itself."""
        yield signal(reading=Path(file).name if file else "")
        try:
            entry = self._submit(file, parallel, chunk, scaling, owner_of(request))
        except gr.Error as error:
            yield signal(error=error.message)  # the toast goes, the player's line stays
            raise
        yield signal(job=entry.run.id)

    def run(
        self, file: str | None, parallel: bool, chunk: float, scaling: str, request: gr.Request
    ) -> Iterator[tuple[dict[str, Any], str | None, str | None]]:
        """Decode a latent, or code a video there and back, on all ranks.

        Streams the run's state as JSON: job, state, phase, frames so far of num_frames, rate in frames per second,
        elapsed seconds; of the ranks' activity what is new, the last one all. The last one comes with the MP4, and for
        a video the latent. Ending the call stops the run.
        """
        entry = self._submit(file, parallel, chunk, scaling, owner_of(request))
        run, version, told = entry.run, None, 0
        try:
            while not entry.settled:
                run.seen()
                state = snapshot(entry, told)
                told += len(state["activity"])
                yield state, None, None
                # Not longer: a caller's departure is noticed at a yield only.
                version = run.wait(0.25, version)
            if run.status == Status.FAILED:
                raise gr.Error(run.message, print_exception=False)
            final = snapshot(entry) | {"rows": self.history.rows(entry)}
            yield final, _text(run.video_path), _text(run.latent_path)
        finally:
            if not run.ended:
                run.stop()

    def _submit(self, file: str | None, parallel: bool, chunk: float, scaling: str, owner: str) -> Entry:
        """Raises gr.Error, in one sentence, for whatever cannot be run."""
        if file is None:
            raise gr.Error("Choose a sample, or upload a latent or a video first.", print_exception=False)
        try:
            run, given = make_run(
                self.jobs, Path(file), parallel=parallel, chunk=round(chunk), scaling=scaling, owner=owner
            )
            try:
                return self.history.submit(run, given)
            except ValueError:
                self.jobs.store.discard(run)
                raise
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            log.exception("%s was not accepted", Path(file).name)
            raise gr.Error(
                f"{Path(file).name} could not be read ({type(error).__name__}); the log says more."
            ) from error


def signal(**what: str) -> str:
    """A message to the player; no two are equal, because Gradio passes on changes only."""
    return json.dumps({**what, "nonce": secrets.token_hex(4)})


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None
