"""Connections that do nothing do not keep others out: they are closed, and their number is limited."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from support.app_runner import wait_for
from support.page_server import Server, running_server

from wanvae_app.page import connections
from wanvae_app.page.connections import LimitedProtocol, limit_connections, raise_file_limit

TIMEOUT = 20.0  # seconds; only a failing test waits so long
MOST = 20  # connections


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "MAX_CONNECTIONS", MOST)
        limit_connections(server.page.server)
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can wait for."""
    monkeypatch.setattr(connections, "LOOK_INTERVAL", 0.05)
    for name in ("REQUEST_SECONDS", "BODY_SECONDS", "READER_SECONDS"):
        monkeypatch.setattr(connections, name, 0.4)


def connect(server: Server, request: bytes = b"") -> socket.socket:
    """Open a connection, and send the beginning of a request."""
    connection = socket.create_connection(("127.0.0.1", server.page.server_port), timeout=TIMEOUT)
    connection.sendall(request)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Read to the end, for as long as something comes."""
    connection.settimeout(0.05)
    try:
        while connection.recv(2**16):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize(
    "request_begun",
    [
        b"",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\n",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nusername=",
        b"POST /live/x/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc",
    ],
)
def test_a_request_that_does_not_come_is_not_waited_for(
    server: Server, quick: None, request_begun: bytes
) -> None:
    with connect(server, request_begun) as connection:
        wait_for(lambda: is_closed(connection), TIMEOUT)


def test_headers_that_come_byte_by_byte_are_not_waited_for(server: Server, quick: None) -> None:
    with connect(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") as connection:

        def drip() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return is_closed(connection)

        wait_for(drip, TIMEOUT)


def test_a_stream_that_is_silent_stays_open(server: Server, quick: None) -> None:
    """A run's frames, and Gradio's events, may take any time."""
    url, cookies = f"{server.url}gradio_api/heartbeat/x", dict(server.visitor.cookies)
    with httpx.Client(cookies=cookies, timeout=TIMEOUT) as client, client.stream("GET", url) as answer:
        parts = answer.iter_bytes()
        assert next(parts)
        with connect(server) as other:  # is closed though it came later
            wait_for(lambda: is_closed(other), TIMEOUT)
        (protocol,) = [
            protocol
            for protocol in server.page.server.server_state.connections
            if isinstance(protocol, LimitedProtocol) and not protocol.is_idle
        ]
        assert not protocol.transport.is_closing()


def test_idle_connections_make_room_for_others(server: Server) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(2 * MOST)]
        for _ in range(3):
            assert httpx.get(f"{server.url}health", timeout=TIMEOUT).status_code == 200
        assert sum(is_closed(connection) for connection in idle) >= MOST
        assert len(server.page.server.server_state.connections) <= MOST


def test_busy_connections_are_left_alone(server: Server) -> None:
    cookies = "; ".join(f"{name}={value}" for name, value in server.visitor.cookies.items())
    request = f"GET /gradio_api/heartbeat/x HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n\r\n".encode()
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(server, request)) for _ in range(MOST)]
        assert all(connection.recv(8) == b"HTTP/1.1" for connection in busy)
        with connect(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as late:
            answer = late.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(b"try again in a minute.\n")
        assert not any(is_closed(connection) for connection in busy)
    wait_for(lambda: not server.page.server.server_state.connections, TIMEOUT)


def test_one_address_does_not_get_all_places(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_PER_ADDRESS", 3)
    monkeypatch.setattr(connections, "is_own_address", lambda address: False)
    with ExitStack() as stack:
        few = [stack.enter_context(connect(server)) for _ in range(3)]
        with connect(server) as another:
            wait_for(lambda: is_closed(another), TIMEOUT)
        assert not any(is_closed(connection) for connection in few)


def test_more_files_may_be_open_than_by_default() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] not in (resource.RLIM_INFINITY,) and before[1] <= 256:
        pytest.skip("the system allows no more")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
        raise_file_limit()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
