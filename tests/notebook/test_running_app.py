"""launch: the page in a notebook's frame, the options it takes, and what it says when the app does not start."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from support.browser import DENY_STORAGE, SAMPLE, Rigged

from wanvae_app import notebook
from wanvae_app.notebook import running_app
from wanvae_app.notebook.running_app import RunningApp, command_line, page_url, reason, start_app


@pytest.fixture
def jupyter() -> Iterator[ThreadingHTTPServer]:
    """A server as Jupyter is one: of this machine, on another port. Its one page is in `html`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(server.html.encode())  # type: ignore[attr-defined]

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Output:
    """Keeps what a cell shows."""

    def __init__(self, content: str = "", text: str = "") -> None:
        self.update(content, text)

    def update(self, content: str, text: str) -> None:
        self.content, self.text = content, text


def test_the_page_works_in_a_notebooks_frame_without_storage(
    rigged: Rigged, browser: Browser, jupyter: Any
) -> None:
    """In the very HTML that a cell shows, on a page of Jupyter's address."""
    output: Any = Output()
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as process, open("/dev/null", "rb") as log:
        app = RunningApp(page_url("127.0.0.1", rigged.app.port), process, log)
        app.show(900, output)
        jupyter.html = output.content
        context = browser.new_context()
        context.add_init_script(DENY_STORAGE)
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://localhost:{jupyter.server_port}/lab")
        assert page.locator("a").get_attribute("href") == app.url
        frame = page.frame_locator("iframe")
        frame.locator(f".sample[title='{SAMPLE}']").click()
        frame.locator("#about:has-text('Latent,')").wait_for()
        frame.locator("#run").click()
        frame.locator(".status:has-text('Finished')").wait_for()
        # The frame is of the notebook's own site, so the browser keeps its cookie: the history finds its runs.
        assert any(cookie["name"] == "wanvae" for cookie in context.cookies(app.url))
        assert not [error for error in errors if "denied" in error], errors
        context.close()
        app.close()
    assert output.content == "The page is closed."


def test_options_are_those_of_the_command_line() -> None:
    options = {
        "vae": ["a.pth", "B=b.pth"],
        "gpus": 2,
        "dtype": "fp32",
        "share": True,
        "auth": None,
        "host": Path("x"),
    }
    expected = "--vae=a.pth --vae=B=b.pth --gpus=2 --dtype=fp32 --share --host=x"
    assert command_line(options) == expected.split()
    assert command_line({"share": False, "allow_host": "-x"}) == ["--allow-host=-x"]


@pytest.mark.parametrize(
    "host, url",
    [
        ("127.0.0.1", "http://localhost:80/"),
        ("0.0.0.0", "http://127.0.0.1:80/"),
        ("::", "http://[::1]:80/"),
        ("box.lan", "http://box.lan:80/"),
    ],
)
def test_the_address_is_one_of_this_machine(host: str, url: str) -> None:
    assert page_url(host, 80) == url


@pytest.mark.parametrize(
    "log, why",
    [
        ("usage: ...\nlaunch.sh: error: unrecognized arguments: --x\n", "unrecognized arguments: --x"),
        ("12:00 rank 0 INFO\nRank 0 cannot start: There is no VAE in it.\nbye\n", "There is no VAE in it."),
        ("Traceback\n  File\nModuleNotFoundError: No module named 'x'\n", "No module named 'x'"),
        ("--port 1: cannot listen there; try another.\n\n", "--port 1: cannot listen there; try another."),
        ("", "it has printed nothing yet"),
    ],
)
def test_the_reason_is_a_sentence_of_the_log(log: str, why: str) -> None:
    assert reason(log) == why


def test_an_app_that_does_not_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="could not be started: unrecognized arguments: --gpu-count=3$"):
        notebook.launch(inline=False, gpu_count=3)


def test_an_app_that_gives_no_answer_is_ended() -> None:
    command = [sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(300)"]
    output: Any = Output()
    with start_app(command, "http://localhost:1/", {}) as app:
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 2 s.*ends with: loading"):
            app.wait_ready("127.0.0.1", 1, 2, output)
        assert time.monotonic() - start < 10 and output.text == "loading"
        assert app.is_running and "running" in repr(app)
    assert not app.is_running and "ended" in repr(app)
    app.close()  # again


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}: cannot listen there .*try another"):
            notebook.launch(inline=False, port=port)


def test_a_kernel_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs Gradio, which .*python.* does not have: install it"):
        notebook.launch(inline=False)


def test_a_launch_that_fails_or_is_interrupted_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RunningApp] = []

    def interrupt(app: RunningApp, *_: object) -> None:
        started.append(app)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunningApp, "wait_ready", interrupt)
    monkeypatch.setattr(running_app, "CellOutput", Output)
    with pytest.raises(KeyboardInterrupt):
        notebook.launch(cpu=1)
    assert not started[0].is_running


def test_a_second_launch_ends_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunningApp, "wait_ready", lambda *_: None)
    with notebook.launch(inline=False, cpu=1) as first, notebook.launch(inline=False, cpu=1) as second:
        assert second.is_running and not first.is_running
