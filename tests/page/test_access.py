"""What a client must not get over HTTP: anything without the password, foreign files, other people's runs."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.page_server import HIDDEN, Server, frame_indices, running_server
from support.tiny import some_latent

from wanvae_app.page.auth import PUBLIC_PATHS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


# The password


def every_route(routes: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route of the server."""
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
            if not PUBLIC_PATHS.fullmatch(path):
                assert answer.status_code == 401, (method, path)
                continue
            body = answer.read()
            assert run.id.encode() not in body
            assert b"components" not in body or b'"auth_required":true' in body


def test_with_the_password_it_is_all_there(server: Server) -> None:
    run = server.finish()
    answer = server.visitor.get("/runs").json()
    assert answer["kept"] is False, "without an archive"
    assert run.id in [listed["id"] for listed in answer["runs"]]
    assert frame_indices(server.visitor.get(f"/live/{run.id}").content) == [0, 1, 2, 3, 4]
    assert frame_indices(server.visitor.get(f"/live/{run.id}?start=3").content) == [3, 4]
    assert server.visitor.get(f"/live/{run.id}/video.mp4").content[4:8] == b"ftyp"


# Scripts


def test_scripts_are_served_behind_the_password(server: Server) -> None:
    page = ROOT / "assets" / "page"
    modules = {path.name: path.read_bytes() for path in page.glob("*.js")}
    assert {"main.js", "gallery.js", "records.js"} <= set(modules)
    for name, text in modules.items():
        answer = server.visitor.get(f"/page/{name}")
        assert answer.status_code == 200 and answer.content == text
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert server.stranger.get(f"/page/{name}").status_code == 401


def test_a_script_is_asked_for_each_time_and_sent_once(server: Server) -> None:
    first = server.visitor.get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = server.visitor.get("/page/main.js", headers={"If-None-Match": known})
        assert again.status_code == 304 and not again.content and again.headers["etag"] == tag
    assert server.visitor.get("/page/main.js", headers={"If-None-Match": '"other"'}).content == first.content
    assert server.visitor.get("/page/player.js").headers["etag"] != tag


def test_nothing_but_scripts_is_served_as_one(server: Server) -> None:
    for name in (
        "player.html",
        "page.css",
        "MAIN.JS",
        "main",
        "../page/main.js",
        "%2e%2e/page/main.js",
        "..%2f..%2fapp.py",
        "/etc/passwd",
        f"{server.secret}",
        "main.js/../player.html",
        "main.js%00",
    ):
        status, body = server.raw(f"/page/{name}")
        assert status >= 400 and HIDDEN not in body and b"import" not in body, name


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
