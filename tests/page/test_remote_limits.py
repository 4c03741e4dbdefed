"""The remote VAE keeps strangers out, bounds what is sent, answers with one sentence, and leaves nothing."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from support.app_runner import wait_for
from support.page_server import AUTH, Server, running_server, sentence
from support.remote_vae import address, local_frames, raw_latent
from support.tiny import tiny_vae

from wanvae_app import remote
from wanvae_app.page import remote_body
from wanvae_app.page.frame_stream import RECORD_HEADER
from wanvae_app.page.logins import MAX_ATTEMPTS
from wanvae_app.page.remote_request import STREAM_TYPE
from wanvae_app.page.remote_stream import END_INDEX

QUERY = {"shape": [1, 16, 2, 4, 3], "dtype": "float32", "output_type": "pt", "partial_postprocess": "True"}
BODY = raw_latent().numpy().tobytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server) -> Iterator[None]:
    """After each test no run, no file, and no room that is kept."""
    yield
    room = next(route.endpoint.__self__.room for route in server.app.routes if route.path == "/vae/decode")
    wait_for(lambda: (room._num_bodies, room._num_reserved) == (0, 0), 20)
    wait_for(lambda: not server.jobs.runs() and not list(server.jobs.folder.glob("*")), 20)


def post(server: Server, path: str = "vae/decode", body: Any = BODY, **more: Any) -> httpx.Response:
    query = {**QUERY, **more.pop("query", {})}
    given = {name: value for name, value in query.items() if value is not None}
    return server.stranger.post(f"/{path}", content=body, params=given, timeout=30, **{"auth": AUTH, **more})


def raw_request(server: Server, path: str, length: int, query: dict[str, Any] | None = None) -> bytes:
    """The head of a request that states a length, whatever is sent then."""
    request = httpx.Request("POST", f"{server.url}{path}", params=query)
    login = next(httpx.BasicAuth(*AUTH).sync_auth_flow(request)).headers["authorization"]
    head = [f"POST {request.url.raw_path.decode()} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: {login}"]
    return "\r\n".join([*head, f"Content-Length: {length}", "", ""]).encode()


# Who may ask


def test_the_password_comes_with_the_request(server: Server) -> None:
    for path in ("vae/decode", "vae/encode"):
        refused = post(server, path, auth=None)
        assert refused.status_code == 401 and sentence(refused) == "Log in first."
    refused = post(server, auth=(AUTH[0], "wrong"))
    assert refused.status_code == 401 and sentence(refused) == "The user or the password is wrong."
    assert post(server).status_code == 200
    with_cookie = server.visitor.post("/vae/decode", content=BODY, params=QUERY)
    assert with_cookie.status_code == 200, "a login of the page is one"
    for path in ("runs", "gradio_api/info", "live/x/state"):
        assert httpx.get(f"{server.url}{path}", auth=AUTH).status_code == 401, "only these two routes take it"
    for header in ("Basic", "Basic !", "Basic YQ==", "Bearer YTpi", "Basic /w=="):
        assert post(server, auth=None, headers={"Authorization": header}).status_code == 401


def test_a_refusal_is_read_though_the_body_is_large(server: Server) -> None:
    """Most programs send all of it before they read."""
    with pytest.raises(remote.RemoteError, match="The user or the password is wrong"):
        next(
            remote.decode(
                address(server, login=("ann", "wrong")), np.zeros((1, 16, 500, 64, 64)), scaling="raw"
            )
        )
    refused = server.stranger.post("/vae/decode", content=bytes(2**25), params=QUERY, auth=AUTH)
    assert refused.status_code == 400 and "make 1536" in sentence(refused)


def test_guesses_at_the_password_are_counted(server: Server) -> None:
    headers = {"X-Forwarded-For": "10.0.0.9"}
    found = [
        post(server, auth=("ann", "guess"), headers=headers).status_code for _ in range(MAX_ATTEMPTS + 1)
    ]
    assert found == [401] * MAX_ATTEMPTS + [429]
    assert post(server, headers=headers).status_code == 429, "the right one, too"
    for _ in range(2):  # an attempt with the password makes the others forgotten
        guesses = [post(server, auth=("ann", "guess")).status_code for _ in range(MAX_ATTEMPTS - 1)]
        assert guesses == [401] * (MAX_ATTEMPTS - 1) and post(server).status_code == 200


def test_pages_of_others_may_not_ask(server: Server) -> None:
    for headers in (
        {"Origin": "https://example.org"},
        {"Host": "example.org"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        refused = post(server, headers=headers)
        assert refused.status_code == 403 and sentence(refused)
    assert httpx.get(f"{server.url}vae/decode", auth=AUTH).status_code == 405


# What is sent


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"shape": None}, "needs its shape and dtype"),
        ({"shape": [1, 16, 2, 4, -3]}, "impossible"),
        ({"shape": [1, 16, 2, 4, 0]}, "impossible"),
        ({"shape": [1] * 6}, "impossible"),
        ({"shape": "1e3"}, "impossible"),
        ({"shape": [1, 16, 10**8, 10**8, 10**8]}, "bytes; at most"),
        ({"shape": [1, 16, 1, 400, 600]}, "too large"),
        ({"shape": [1, 16, 2000, 1, 1]}, "too large"),
        ({"shape": [1, 48, 2, 4, 3]}, "this VAE takes [1, 16, T, H, W]"),
        ({"shape": [2, 16, 1, 4, 3]}, "one after the other"),
        ({"dtype": "uint8"}, "floating-point numbers"),
        ({"dtype": "object"}, "not known"),
        ({"output_type": "gif"}, "output_type"),
        ({"image_format": "raw"}, "image_format"),
        ({"partial_postprocess": "perhaps"}, "give true or false"),
        ({"scaling_factor": "nan"}, "finite number"),
        ({"height": "64"}, "give both"),
        ({"fps": "1e9"}, "frames per second"),
        ({"vae": "another"}, "There is no VAE"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_before_the_body(
    server: Server, query: dict[str, Any], told: str
) -> None:
    answer = post(server, query=query)
    assert answer.status_code == 400 and told in answer.json()["detail"]
    assert answer.json()["detail"].endswith(".") and "Traceback" not in answer.text


def test_a_body_that_lies_is_refused(server: Server) -> None:
    for body in (BODY[:-1], BODY + b"x", b""):
        answer = post(server, body=body)
        assert answer.status_code == 400 and "shape and dtype make 1536" in sentence(answer)
    for pieces in ([BODY, BODY], [BODY[:-4]]):  # without a length
        answer = post(server, body=iter(pieces))
        assert answer.status_code == 400 and "1536" in sentence(answer)
    for value in (float("nan"), float("inf"), 1e30):
        z = raw_latent().numpy().copy()
        z[0, 3, 1, 2, 1] = value
        answer = post(server, body=z.tobytes())
        assert answer.status_code == 400 and "The latent holds values" in answer.json()["detail"]
    encoded = httpx.post(f"{server.url}vae/encode", content=b"\x89PNG\r\n\x1a\n" + bytes(8), auth=AUTH)
    assert encoded.status_code == 400 and sentence(encoded)


def test_large_bodies_need_room(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_body, "free_disk", lambda folder: 2000)
    answer = post(server)
    assert answer.status_code == 507 and "2 kB, and 1 kB are free" in sentence(answer)
    monkeypatch.undo()
    monkeypatch.setattr(remote_body, "MAX_BODIES", 0)
    assert post(server).status_code == 503
    monkeypatch.undo()
    monkeypatch.setattr(remote_body, "DRAIN_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.page.server_port), timeout=10) as connection:
        connection.sendall(raw_request(server, "vae/encode", 2**33) + bytes(2**20))
        assert connection.recv(2**16).startswith(b"HTTP/1.1 413")
    assert post(server).status_code == 200


def test_slow_bodies_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_body, "START_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", server.page.server_port), timeout=10) as connection:
        connection.sendall(raw_request(server, "vae/decode", len(BODY), QUERY) + BODY[:100])
        answer = b""
        while b"came too slowly" not in answer:
            part = connection.recv(2**16)
            assert part, answer
            answer += part
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_body_that_is_broken_off_leaves_nothing(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.page.server_port), timeout=10) as connection:
        connection.sendall(raw_request(server, "vae/decode", len(BODY), QUERY) + BODY[:100])
        time.sleep(0.1)


def test_the_refusal_of_a_latent_names_the_vae_that_takes_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = tiny_vae()
    vae.config = replace(vae.config, z_dim=48)
    monkeypatch.setitem(server.jobs.vaes._described, "wide", vae)
    answer = post(server, query={"shape": [1, 48, 2, 4, 3]})
    assert (
        answer.status_code == 400
        and "this VAE takes [1, 16, T, H, W]; wide would, as vae=NAME." in answer.text
    )


def test_a_full_queue_refuses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.jobs._queue, "refusal", lambda run: "Too many runs are waiting.")
    answer = post(server)
    assert answer.status_code == 503 and sentence(answer) == "Too many runs are waiting."


# The stream


def test_a_stream_holds_the_pages_records(server: Server) -> None:
    frames = local_frames(raw_latent())
    answer = post(server, headers={"Accept": STREAM_TYPE})
    assert answer.headers["content-type"] == STREAM_TYPE and json.loads(answer.headers["shape"]) == [
        5,
        32,
        24,
        3,
    ]
    payloads, position, times = [], 0, []
    while position < len(answer.content):
        index, length, seconds = RECORD_HEADER.unpack_from(answer.content, position)
        position += RECORD_HEADER.size
        payloads.append((index, answer.content[position : position + length]))
        position += length
        times.append(seconds)
    assert [index for index, _ in payloads] == [0, 1, 2, 3, 4, END_INDEX] and times == sorted(times)
    assert all(payload.startswith(b"\xff\xd8") for _, payload in payloads[:-1]), "JPEG, as on the page"
    assert json.loads(payloads[-1][1]) == {"state": "finished"}
    for image_format in ("raw", "png"):
        found = remote.decode(address(server), raw_latent(), scaling="raw", image_format=image_format)
        assert np.array_equal(np.concatenate(list(found)), frames), image_format


def test_a_program_that_leaves_stops_its_run(server: Server) -> None:
    frames = remote.decode(address(server), raw_latent(40), scaling="raw")
    assert next(frames).shape == (1, 32, 24, 3)
    (run,) = server.jobs.runs()
    frames.close()
    wait_for(lambda: run.ended, 20)
    assert run.status == "stopped" and "the program that asked for it has left" in run.message
    assert len(run.frames) < run.num_frames


def test_a_program_that_leaves_before_its_turn_is_forgotten(server: Server) -> None:
    """Its connection is closed while the run waits for its turn."""
    first = remote.decode(address(server), raw_latent(60), scaling="raw")
    next(first)
    body = np.zeros((1, 16, 2, 4, 3), np.float32).tobytes()
    with socket.create_connection(("127.0.0.1", server.page.server_port), timeout=10) as connection:
        connection.sendall(raw_request(server, "vae/decode", len(body), QUERY) + body)
        wait_for(lambda: len(server.jobs.runs()) == 2, 10)
        second = server.jobs.runs()[-1]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    begun = time.monotonic()
    wait_for(lambda: second.ended, 10)
    assert second.status == "stopped" and time.monotonic() - begun < 5
    first.close()
