"""A viewer's stream of records over HTTP: slow viewers, viewers who leave, and runs that are deleted."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from support.app_runner import wait_for
from support.page_server import Server, frame_indices, running_server
from support.tiny import some_latent

from wanvae_app.jobs.job_state import Status
from wanvae_app.page import frame_stream
from wanvae_app.page.entry import HistoryEntry, RunInput
from wanvae_app.page.frame_stream import RECORD_HEADER

TIMEOUT = 20.0  # seconds; only a failing test waits so long


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def start_endless(server: Server, monkeypatch: pytest.MonkeyPatch) -> HistoryEntry:
    """A run of the visitor's that is on no rank; the test appends its frames and ends it."""
    run = server.jobs.new_run(latent=some_latent(2), owner=server.visitor.cookies["wanvae"], name="clip.pt")
    with monkeypatch.context() as patch:
        patch.setattr(server.jobs, "submit", server.jobs.store.add)
        entry = server.history.submit(run, RunInput("noise"))
    run.change(status=Status.RUNNING)
    return entry


def test_a_closed_connection_leaves_no_listener(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_endless(server, monkeypatch).run
    with server.visitor.stream("GET", f"/live/{run.id}") as answer:
        assert answer.status_code == 200
        wait_for(lambda: run.frames._listeners, TIMEOUT)
    wait_for(lambda: not run.frames._listeners, TIMEOUT)
    run.frames.finish()
    run.change(status=Status.STOPPED)


def test_a_run_is_stopped_when_its_last_viewer_leaves(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_stream, "SEEN_INTERVAL", 0.1)
    monkeypatch.setattr(server.history, "unwatched_seconds", 2.0)
    run = start_endless(server, monkeypatch).run
    with server.visitor.stream("GET", f"/live/{run.id}") as answer:
        parts = answer.iter_bytes()
        time.sleep(3.0)  # longer than a run goes on unwatched
        assert not run.stop_requested
        run.frames.append(np.zeros((1, run.frames.height, run.frames.width, 3), np.uint8))
        assert frame_indices(next(parts)) == [0]
    wait_for(lambda: run.stop_requested, TIMEOUT)
    assert run.stop_reason == "no page had asked for it for 2 s"
    run.frames.finish()
    run.change(status=Status.STOPPED)


def test_a_run_goes_on_while_its_viewer_is_slow(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame takes this viewer longer than a run goes on unwatched; then the viewer leaves."""
    monkeypatch.setattr(frame_stream, "SEEN_INTERVAL", 0.1)
    monkeypatch.setattr(server.history, "unwatched_seconds", 1.0)
    run = start_endless(server, monkeypatch).run
    big = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    record = RECORD_HEADER.pack(0, big.nbytes, 0.0) + big.tobytes()  # more than all buffers on its way hold
    monkeypatch.setattr(frame_stream, "encode_record", lambda *_: record)
    run.frames.append(np.zeros((3, run.frames.height, run.frames.width, 3), np.uint8))
    with socket.create_connection(("127.0.0.1", server.page.server_port)) as viewer:
        cookies = "; ".join(f"{name}={value}" for name, value in server.visitor.cookies.items())
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /live/{run.id} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n\r\n"
        viewer.sendall(request.encode())
        assert viewer.recv(100).startswith(b"HTTP/1.1 200")
        time.sleep(2.0)
        assert not run.stop_requested
    wait_for(lambda: run.stop_requested, TIMEOUT)
    run.frames.finish()
    run.change(status=Status.STOPPED)


def test_a_deleted_run_ends_its_streams(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_endless(server, monkeypatch).run
    with server.visitor.stream("GET", f"/live/{run.id}") as answer:
        wait_for(lambda: run.frames._listeners, TIMEOUT)
        run.frames.close()
        assert answer.read() == b""
    assert server.visitor.get(f"/live/{run.id}").status_code == 410
    run.change(status=Status.STOPPED)
