"""The page on one rank, served by the test's own process with a password; and a browser's requests to it."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from support.app_runner import wait_for
from support.tiny import some_latent, tiny_vae

from wanvae_app.jobs.archive import Archive
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.model.vae import WanVAE
from wanvae_app.page.entry import HistoryEntry, RunInput
from wanvae_app.page.frame_stream import RECORD_HEADER
from wanvae_app.page.history import History
from wanvae_app.parallel.process_group import Group

AUTH = ("ann", "a:secret")
HIDDEN = b"not for you"
JPEG_START = b"\xff\xd8"


class Server:
    """The page on one rank, in this process, with a password.

    `visitor` is a client that is logged in and has its cookie; `stranger` is one without both. `secret` is a file that
    nobody may fetch; it holds HIDDEN.
    """

    def __init__(self, folder: Path, archive: Archive | None = None, vae: WanVAE | None = None) -> None:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from wanvae_app.page.blocks import build_page, launch_arguments

        self.jobs = JobService(Group(0, 1, torch.device("cpu")), vae or tiny_vae(), folder / "runs")
        self.history = History(self.jobs, archive=archive)
        self.page = build_page(self.jobs, self.history)
        arguments = launch_arguments(self.jobs, self.history)
        self.app, self.url, _ = self.page.queue().launch(
            prevent_thread_lock=True,
            server_name="127.0.0.1",
            server_port=None,
            auth=AUTH,
            quiet=True,
            **arguments,
        )
        self.stranger = httpx.Client(base_url=self.url, timeout=20)
        self.visitor = httpx.Client(base_url=self.url, timeout=20)
        login = self.visitor.post("/login", data={"username": AUTH[0], "password": AUTH[1]})
        assert login.status_code == 200 and self.visitor.get("/").status_code == 200
        self.secret = folder / "secret.txt"
        self.secret.write_bytes(HIDDEN)

    def start(self, num_latents: int = 2) -> HistoryEntry:
        """Start a run of the visitor's; it decodes noise."""
        run = self.jobs.new_run(
            latent=some_latent(num_latents), owner=self.visitor.cookies["wanvae"], name="clip.pt"
        )
        return self.history.submit(run, RunInput("noise"))

    def finish(self, num_latents: int = 2) -> JobState:
        """Start a run of the visitor's and wait until it has ended."""
        entry = self.start(num_latents)
        wait_for(lambda: entry.settled, 30)
        return entry.run

    def raw(self, path: str) -> tuple[int, bytes]:
        """Status and body that the visitor gets for a path. No client normalises the path before it is sent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.page.server_port, timeout=20)
        cookies = "; ".join(f"{name}={value}" for name, value in self.visitor.cookies.items())
        connection.request("GET", path, headers={"Cookie": cookies})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def call(self, file: Any) -> str:
        """Call the endpoint /run with a file as a client may describe it; returns the text of its event stream."""
        data = {"data": [file, True, 1, "Auto"]}
        answer = self.visitor.post("/gradio_api/call/run", json=data)
        if answer.status_code != 200:
            return answer.text
        return self.visitor.get(f"/gradio_api/call/run/{answer.json()['event_id']}").text


@contextmanager
def running_server(
    folder: Path, archive: Archive | None = None, vae: WanVAE | None = None
) -> Iterator[Server]:
    """Start a server, and close it at the end."""
    server = Server(folder, archive, vae)
    try:
        yield server
    finally:
        server.jobs.close()
        server.page.close()


def sentence(answer: httpx.Response) -> str:
    """The one sentence of a refusal. AssertionError if there is more, or anything of the program."""
    text = answer.json()["detail"]
    assert re.fullmatch(r"[A-Z][^\n]{5,200}\.", text) and text.count(". ") == 0, text
    assert "Traceback" not in text and "/site-packages/" not in text
    return text


def frame_indices(stream: bytes) -> list[int]:
    """Parse a stream of records completely; returns the indices of its frames."""
    found, position = [], 0
    while position < len(stream):
        index, length, _ = RECORD_HEADER.unpack_from(stream, position)
        position += RECORD_HEADER.size
        assert stream[position : position + 2] == JPEG_START
        position += length
        found.append(index)
    assert position == len(stream)
    return found


def jpegs(stream: bytes) -> list[bytes]:
    """Parse a stream of records completely; returns its frames."""
    found, position = [], 0
    while position < len(stream):
        _, length, _ = RECORD_HEADER.unpack_from(stream, position)
        position += RECORD_HEADER.size + length
        found.append(stream[position - length : position])
    return found
