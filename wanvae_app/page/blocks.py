"""The page's layout: a Gradio app around the player in assets/page, which follows a run by the routes of routes.py.

history = History(jobs)
build_page(jobs, history).queue().launch(**launch_arguments(jobs, history))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from starlette.middleware import Middleware

from wanvae_app.assets import PAGE, SAMPLES
from wanvae_app.errors import plural
from wanvae_app.formats.checkpoint import family_and_width
from wanvae_app.formats.latents import LATENT_FORMATS
from wanvae_app.formats.outputs import OUTPUTS
from wanvae_app.formats.video_plan import MAX_FRAMES
from wanvae_app.jobs.service import JobService
from wanvae_app.page.export_api import ExportHandler
from wanvae_app.page.file_components import without_empty_files
from wanvae_app.page.gallery import find_samples, gallery_html, header_html, upload_hint
from wanvae_app.page.gradio_requests import refuse_content, tell_bad_inputs
from wanvae_app.page.handlers import EventHandlers
from wanvae_app.page.history import History
from wanvae_app.page.hosts import AllowedHosts
from wanvae_app.page.latent_question import LatentQuestions
from wanvae_app.page.latent_readings import ORDER_NAMES, SCALINGS
from wanvae_app.page.logins import ATTEMPT_SECONDS, MAX_ATTEMPTS
from wanvae_app.page.middleware import PageMiddleware, host_lifespan
from wanvae_app.page.routes import make_routes
from wanvae_app.page.scripts import call_module, head, load_module
from wanvae_app.page.upload import MAX_CHUNK
from wanvae_app.page.upload_room import UploadRoom

HOUR = 3600  # seconds
DAY = 24 * HOUR


def launch_arguments(jobs: JobService, history: History, hosts: AllowedHosts | None = None) -> dict[str, Any]:
    """Arguments of `Blocks.launch` for this page. The routes are among them: requests may come at once.

    Without `hosts`, only this machine is answered.
    """
    routes = make_routes(jobs, history)
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
        # Gradio names a button by a key that it has no words for.
        "i18n": gr.I18n(en={"common.upload": "Upload"}),
        "css_paths": [
            PAGE / name for name in ("page.css", "stage.css", "player.css", "history.css", "question.css")
        ],
        "head": head(),
        "app_kwargs": {
            "routes": routes,
            "middleware": [Middleware(PageMiddleware, routes=routes)],
            "lifespan": host_lifespan(hosts or AllowedHosts()),
            "exception_handlers": {RequestValidationError: refuse_content},
            "openapi_url": None,  # FastAPI would serve its description of the routes without a password
        },
        "max_file_size": "4gb",
        "auth_message": f"After {MAX_ATTEMPTS} attempts, one more is allowed every {ATTEMPT_SECONDS:.0f} seconds.",
        "root_path": os.environ.get("GRADIO_ROOT_PATH", "").rstrip("/"),  # Gradio answers nothing below "/"
        "footer_links": ["api"],
        "show_error": True,
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
    }


def build_page(jobs: JobService, history: History, samples: Path = SAMPLES) -> gr.Blocks:
    """Build the page for these jobs. `samples` is a folder of latents and videos, each with a .jpg beside it."""
    UploadRoom(jobs).install()
    vaes = jobs.vaes
    found = find_samples(samples, [vaes[name].config for name in vaes.names])
    handlers, questions = EventHandlers(jobs, history, found), LatentQuestions(jobs)
    gr.set_static_paths(found)  # else Gradio copies a sample when it is chosen
    num_ranks = jobs.group.size
    # Every hour Gradio deletes uploads older than a day: a page may run an upload again.
    page = gr.Blocks(title="Wan VAE", fill_width=True, delete_cache=(HOUR, DAY))
    tell_bad_inputs(page)
    with page:
        gr.HTML(header_html(jobs), elem_id="header", apply_default_css=False)
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=0, min_width=300, elem_id="controls"):
                gallery = gr.HTML(
                    gallery_html(found, vaes.first.config),
                    js_on_load=load_module("gallery.js"),
                    elem_id="samples",
                    apply_default_css=False,
                )
                # No `file_types`: the content decides, and the component is stuck after it has refused a name.
                files = gr.File(label="Latents or videos", height=108, elem_id="file", file_count="multiple")
                files = without_empty_files(for_uploads(files))
                hint = upload_hint(vaes.first, jobs.group.device)
                about = gr.HTML(hint, elem_id="about", apply_default_css=False)
                question = gr.HTML(
                    "", js_on_load=load_module("question.js"), elem_id="question", apply_default_css=False
                )
                vae = gr.Dropdown(
                    [(f"{name} ({family_and_width(vaes[name].config)})", name) for name in vaes.names],
                    value=vaes.names[0],
                    label="VAE",
                    filterable=False,
                    visible=len(vaes.names) > 1,
                    elem_id="vae",
                )
                with gr.Row(elem_id="actions"):
                    run = gr.Button("Run", variant="primary", elem_id="run", min_width=90)
                    stop = gr.Button("Stop", elem_id="stop", min_width=90, interactive=False)
                parallel = gr.Checkbox(
                    num_ranks > 1,
                    label=f"Parallel ({plural(num_ranks, 'rank')})",
                    info="Each rank decodes a slab of the picture. Off: rank 0 works alone, to compare.",
                    elem_id="parallel",
                )
                with gr.Accordion("More options", open=False, elem_id="options"):
                    chunk = gr.Slider(
                        1,
                        MAX_CHUNK,
                        jobs.vae.default_chunk,
                        step=1,
                        label="Latent frames per chunk",
                        info="Decoded at a time: more are faster and take more memory.",
                        elem_id="chunk",
                        buttons=[],
                    )
                    scaling = gr.Radio(
                        SCALINGS,
                        value="Auto",
                        label="Latent scaling",
                        info="Raw is what the encoder gives, normalised what diffusers saves.",
                        elem_id="scaling",
                    )
                    frames = gr.Textbox(
                        "",
                        label="Frames of a video",
                        info=f"Empty: all, {MAX_FRAMES} at most. A range: 1-500 or 200-; every second: 1-2000/2.",
                        max_lines=1,
                        max_length=40,
                        elem_id="frames",
                    )
            with gr.Column(scale=1, min_width=320, elem_id="viewer"):
                player = gr.HTML(
                    "",
                    html_template=(PAGE / "player.html").read_text(),
                    js_on_load=load_module("main.js"),
                    elem_id="player",
                    apply_default_css=False,
                )
                gr.HTML("", js_on_load=load_module("history.js"), elem_id="history", apply_default_css=False)
        inputs: list[Any] = [files, parallel, chunk, scaling, vae, frames]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        gallery.select(handlers.choose_sample, None, files, **private)
        files.upload(None, files, files, js=call_module("file_names.js", "asKept"))
        vae.change(None, vae, None, js=call_module("vae_facts.js", "show"))
        vae.input(None, vae, chunk, js=call_module("vae_facts.js", "defaultChunk"))
        about_inputs = [files, vae, frames]
        gr.on(
            [files.change, frames.blur, frames.submit],
            handlers.describe,
            about_inputs,
            about,
            concurrency_limit=4,
            **private,
        )
        vae.change(
            handlers.choose_vae, [vae, files, frames], [gallery, about], concurrency_limit=4, **private
        )
        for each in (files, vae, scaling):
            each.change(questions.ask, [files, vae, scaling], question, concurrency_limit=4, **private)
        answers = gr.Textbox("", visible=False)  # filled in by the page's script
        run.click(
            handlers.start,
            [*inputs, answers],
            player,
            js=call_module("question.js", "withAnswers", []),
            concurrency_limit=4,
            trigger_mode="once",
            **private,
        )
        stop.click(None, js="() => window.wanvae?.stop()")
        # What is chosen is kept in the tab, for a reload.
        restore = call_module("choices.js", "restore", vaes.names)
        page.load(None, inputs, inputs, js=restore)
        keep = call_module("choices.js", "keep", vaes.names)
        gr.on([each.change for each in inputs], None, inputs, js=keep)

        # The API endpoint /run, for programs. Its components are never shown.
        trigger = gr.Button(visible=False)
        file = without_empty_files(for_uploads(gr.File(label="Latent or video", visible=False)))
        # A dropdown would refuse other names in a sentence of Gradio's.
        vae_name = gr.Textbox("", label=f"VAE: {', '.join(vaes.names)}; empty: the first", visible=False)
        which = gr.Textbox("", label="Frames of a video, such as 1-500; empty: all", visible=False)
        outputs = [
            gr.JSON(label="State", visible=False),
            gr.File(label="MP4", visible=False),
            gr.File(label="Latent", visible=False),
        ]
        part = gr.Textbox(
            "", label="Part: which of several latents of a file; empty: its only one", visible=False
        )
        order = gr.Textbox(
            "Auto", label=f"Order of a latent's dimensions: {', '.join(ORDER_NAMES)}", visible=False
        )
        latent_format = gr.Textbox(
            "Normalised", label=f"Latent format of what is saved: {', '.join(LATENT_FORMATS)}", visible=False
        )
        api_inputs = [file, parallel, chunk, scaling, vae_name, which, part, order, latent_format]
        trigger.click(handlers.run, api_inputs, outputs, api_name="run", concurrency_limit=None)

        # The API endpoint /export: another file of a run.
        job = gr.Textbox("", label="Run, as /run calls it", visible=False)
        name = gr.Textbox("", label=f"Format: {', '.join(output.name for output in OUTPUTS)}", visible=False)
        exported = [gr.JSON(label="State", visible=False), gr.File(label="File", visible=False)]
        export = ExportHandler(jobs, history).export
        gr.Button(visible=False).click(
            export, [job, name], exported, api_name="export", concurrency_limit=None
        )
    return page


def for_uploads(file: gr.File) -> gr.File:
    """Let the component take uploads only, and the API's examples show one.

    Gradio would download any address that a client names, of any size, and its examples name one. The methods are set
    on the object: for a subclass, Gradio would write a .pyi file beside this one.
    """
    original = file.async_move_resource_to_block_cache

    async def move_upload(path: str | Path | None) -> str | None:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("Upload the file itself: addresses are not fetched.", print_exception=False)
        return await original(path)

    name = "latent.safetensors"
    example = {"path": name, "url": name, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    file.async_move_resource_to_block_cache = move_upload  # type: ignore[assignment, method-assign]
    file.example_payload = lambda: example  # type: ignore[method-assign]
    return file
