"""Strangers: what a client gets over HTTP that it should not, and what viewers get when the server is in trouble."""

from __future__ import annotations

import errno
import http.client
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from app_runner import wait_for
from tiny import some_latent, tiny_vae

from wanvae_app import frames as frames_module
from wanvae_app import writer as writer_module
from wanvae_app.group import Group, GroupLost
from wanvae_app.jobs import Jobs
from wanvae_app.live import RECORD
from wanvae_app.results import Entry, Given, Results
from wanvae_app.run import Run
from wanvae_app.visitors import OPEN

ROOT = Path(__file__).resolve().parent.parent
AUTH = ("ann", "a:secret")
HIDDEN = b"not for you"


class Server:
    """The page on one rank, in this process, behind a password; and a visitor who knows it."""

    def __init__(self, folder: Path) -> None:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from wanvae_app.ui import build_page, launch_arguments

        self.jobs = Jobs(Group(0, 1, torch.device("cpu")), tiny_vae(), folder / "runs")
        self.results = Results(self.jobs)
        self.page = build_page(self.jobs, self.results)
        arguments = launch_arguments(self.jobs, self.results)
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

    def start(self, num_latents: int = 2) -> Entry:
        """A run of the visitor's."""
        run = self.jobs.new_run(
            latent=some_latent(num_latents), owner=self.visitor.cookies["wanvae"], name="clip.pt"
        )
        return self.results.submit(run, Given("noise"))

    def finish(self, num_latents: int = 2) -> Run:
        """The same, when it has ended."""
        entry = self.start(num_latents)
        wait_for(lambda: entry.settled, 30)
        return entry.run

    def raw(self, path: str) -> tuple[int, bytes]:
        """What the visitor gets for a path that no client has tidied up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.page.server_port, timeout=20)
        cookies = "; ".join(f"{name}={value}" for name, value in self.visitor.cookies.items())
        connection.request("GET", path, headers={"Cookie": cookies})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def call(self, file: Any) -> str:
        """The endpoint's answer to a file as a client may describe it, as text of an event stream."""
        data = {"data": [file, True, 1, "Auto"]}
        answer = self.visitor.post("/gradio_api/call/run", json=data)
        if answer.status_code != 200:
            return answer.text
        return self.visitor.get(f"/gradio_api/call/run/{answer.json()['event_id']}").text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.jobs.close()
    server.page.close()


def indices(stream: bytes) -> list[int]:
    """The numbers of the frames in a stream of records."""
    found, position = [], 0
    while position < len(stream):
        index, length, _ = RECORD.unpack_from(stream, position)
        position += RECORD.size
        assert stream[position : position + 2] == b"\xff\xd8"  # of a JPEG
        position += length
        found.append(index)
    assert position == len(stream)
    return found


# The password


def every_route(routes: list[Any]) -> Iterator[tuple[str, str]]:
    """Method and path of all that the server answers to."""
    for route in routes:
        inner = getattr(route, "original_router", route)  # FastAPI hides a router's routes
        yield from every_route(getattr(inner, "routes", None) or [])
        yield from ((method, route.path) for method in getattr(route, "methods", None) or ())


def test_the_password_covers_every_route(server: Server) -> None:
    run = server.finish()
    routes = set(every_route(server.app.routes))
    for path, method in (
        ("/live/{id}", "GET"),
        ("/live/{id}/stop", "POST"),
        ("/gradio_api/queue/join", "POST"),
    ):
        assert (method, path) in routes
    for method, path in sorted(routes):
        with server.stranger.stream(method, re.sub(r"\{.*?\}", "x", path.replace("{id}", run.id))) as answer:
            if not OPEN.fullmatch(path):
                assert answer.status_code == 401, (method, path)
                continue
            body = answer.read()
            assert (
                run.id.encode() not in body and b"components" not in body or b'"auth_required":true' in body
            )


def test_with_the_password_it_is_all_there(server: Server) -> None:
    run = server.finish()
    assert indices(server.visitor.get(f"/live/{run.id}").content) == [0, 1, 2, 3, 4]
    assert indices(server.visitor.get(f"/live/{run.id}?start=3").content) == [3, 4]
    assert server.visitor.get(f"/live/{run.id}/video.mp4").content[4:8] == b"ftyp"


# Files


def test_nothing_but_a_runs_own_files_can_be_fetched(server: Server) -> None:
    run = server.finish()
    assert run.video_path is not None and server.raw(f"/live/{run.id}/video.mp4")[0] == 200
    home = f"/live/{run.id}"
    secret, video = server.secret, run.video_path
    steps = os.path.relpath(secret, run.folder)
    paths = [
        f"{home}/{steps}",
        f"{home}/{steps}".replace("..", "%2e%2e"),
        f"{home}/{steps.replace('/', '%2f')}",
    ]
    paths += [
        f"{home}/video.mp4/{steps}",
        f"/live/{steps}/state",
        f"/{steps}",
        "/live/x/../../../../etc/passwd",
    ]
    for file in (secret, video, ROOT / "app.py", "/etc/passwd", f"{ROOT}/assets/samples/../../app.py"):
        paths += [
            f"/gradio_api/file={file}",
            f"/gradio_api/file/{file}",
            f"/gradio_api/file=/proc/self/root{file}",
        ]
        paths += [
            f"/static/{file}",
            f"/assets/{file}",
            f"/svelte/{file}",
            f"/static/../../../../../../../..{file}",
        ]
    paths.append("/gradio_api/file=http://127.0.0.1:1/")
    for path in paths:
        status, body = server.raw(path)
        assert status >= 400, path
        assert HIDDEN not in body and b"ftyp" not in body and b"root:" not in body and b"import" not in body


def test_no_path_or_address_from_a_client_is_opened(server: Server) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    trap = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=trap.serve_forever, daemon=True).start()
    sample = ROOT / "assets" / "samples" / "Rolling marbles.safetensors"
    for path in (str(server.secret), str(sample), "/etc/passwd", f"http://127.0.0.1:{trap.server_port}/x"):
        answer = server.call({"path": path, "meta": {"_type": "gradio.FileData"}})
        assert "error" in answer and "frames" not in answer and HIDDEN.decode() not in answer
        answer = server.call(path)
        assert "error" in answer and "frames" not in answer and HIDDEN.decode() not in answer
    trap.shutdown()
    assert not asked


def test_a_runs_address_cannot_be_guessed(server: Server) -> None:
    ids = {server.jobs.new_run(latent=some_latent(1)).id for _ in range(20)}
    assert len(ids) == 20 and all(re.fullmatch(r"[\w-]{22}", id) for id in ids), "128 random bits each"
    assert len({id[0] for id in ids}) > 3 and not os.path.commonprefix(sorted(ids))
    run = server.finish()
    assert server.visitor.get(f"/live/{run.id}/state").status_code == 200
    for guess in (run.id[:8], run.id[:-1], run.id.swapcase(), "*", "%", "0", "..", " "):
        assert server.visitor.get(f"/live/{guess}/state").status_code == 404


# Trouble


def watched(server: Server) -> tuple[dict[str, Any], list[int]]:
    """A new run's last state, and the frames that its viewer got."""
    entry = server.start()
    seen = indices(server.visitor.get(f"/live/{entry.run.id}").content)
    wait_for(lambda: entry.settled, 30)
    return server.visitor.get(f"/live/{entry.run.id}/state").json(), seen


def test_without_ffmpeg_the_frames_are_seen(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    state, seen = watched(server)
    assert state["state"] == "finished" and seen == [0, 1, 2, 3, 4]
    assert re.fullmatch(r"Finished\. the MP4 could not be written: .*ffmpeg.* missing.*\.", state["message"])
    assert (
        not state["video_file"] and server.visitor.get(f"/live/{state['job']}/video.mp4").status_code == 404
    )


def test_on_a_full_disk_the_frames_are_seen(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(frames_module.os, "pwrite", full)
    state, seen = watched(server)
    assert state["state"] == "finished" and seen == [0, 1, 2, 3, 4]
    assert "kept in memory" in state["message"] and "No space left on device" in state["warning"]


def test_without_the_temporary_folder_the_frames_are_seen(server: Server) -> None:
    folder = server.jobs.folder
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("in the way")
    state, seen = watched(server)
    folder.unlink()
    folder.with_name("elsewhere").rename(folder)
    assert state["state"] == "finished" and seen == [0, 1, 2, 3, 4]
    assert "kept in memory" in state["message"] and "could not be written" in state["message"]


def test_a_fault_in_writing_files_ends_neither_the_run_nor_the_writer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a fault of our own")

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "write_mp4", broken)
        state, seen = watched(server)
    assert (
        state["state"] == "finished" and seen == [0, 1, 2, 3, 4] and "a fault of our own" in state["message"]
    )
    state, _ = watched(server)
    assert state["message"] == "Finished." and state["video_file"]


def test_a_frame_that_cannot_be_encoded_costs_its_viewer_a_reconnect(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wanvae_app import live

    run = server.finish()
    with monkeypatch.context() as patch:
        original = live.encode_record
        patch.setattr(
            live,
            "encode_record",
            lambda log, index, origin: original(log, index, origin) if index < 2 else 1 / 0,
        )
        with server.visitor.stream("GET", f"/live/{run.id}") as answer, pytest.raises(httpx.HTTPError):
            answer.read()
    assert indices(server.visitor.get(f"/live/{run.id}?start=2").content) == [2, 3, 4]


# Last: nothing works after it.


def test_health_tells_ready_busy_and_broken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def health() -> str:
        return server.stranger.get("/health").json()["state"]

    going, lost = threading.Event(), threading.Event()

    def agree(*_: Any) -> Any:
        going.wait(20)
        raise GroupLost("rank 3 died")

    assert health() == "ready"
    monkeypatch.setattr(server.jobs.group, "agree", agree)
    server.jobs.lost = lost.set
    entry, queued = server.start(), server.start()
    assert health() == "busy"
    going.set()
    assert lost.wait(20) and health() == "broken"
    for run in (entry.run, queued.run):
        state = server.visitor.get(f"/live/{run.id}/state").json()
        assert (state["state"], state["message"]) == ("failed", "Rank 3 died; the ranks are being restarted.")
    with pytest.raises(ValueError, match="Rank 3 died"):
        server.start()
