"""Limits for the connections of the page's server, which are file descriptors of this process.

uvicorn closes a connection that is idle after an answer. It waits for ever for the first request, for the rest of one,
and for a reader that takes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from wanvae_app.page.hosts import is_own_address

MAX_FILES = 65536  # descriptors that this process asks for
MACOS_FILES = 10240  # OPEN_MAX of macOS, more than which it may refuse
MAX_CONNECTIONS = 1000  # and half of the descriptors at most
MAX_PER_ADDRESS = 200  # but for this machine's own addresses, which may be a proxy's; a browser has six
REQUEST_SECONDS = 15.0  # for a request's headers, from the connection or the answer before on
BODY_SECONDS = 60.0  # between two pieces of a request's body
READER_SECONDS = 300.0  # in which a reader that is waited for must take something
LOOK_INTERVAL = 5.0  # seconds between two looks at a connection
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
    b"Retry-After: 15\r\n\r\nToo many connections are open: try again in a minute.\n"
)


def raise_file_limit() -> None:
    """Let this process open as many files as the system allows it, MAX_FILES at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    for number in (wanted, MACOS_FILES):
        if soft == resource.RLIM_INFINITY or soft >= number:
            return
        with contextlib.suppress(ValueError, OSError):  # macOS says that there is no limit, and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
            return


def limit_connections(server: Any) -> None:
    """Apply the limits to all connections that a running uvicorn server accepts from now on."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)
    server.config.http_protocol_class = partial(LimitedProtocol, max_connections=most)
    server.config.ws_protocol_class = None


class LimitedProtocol(H11Protocol):
    """One connection, which is closed when the other side is too slow, and refused when there are too many."""

    def __init__(self, *args: Any, max_connections: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_connections = max_connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        now = self.loop.time()
        self._idle_since = now  # or the end of the last answer
        self._last_data = now
        self._last_taken = now  # when the reader last took something, or had nothing to take
        self._num_unsent = 0  # bytes that the reader had not taken at the last look
        self._look_task: asyncio.TimerHandle | None = None
        if self._is_one_too_many():
            transport.write(BUSY)
            transport.close()
        else:
            self._look_task = self.loop.call_later(LOOK_INTERVAL, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look_task is not None:
            self._look_task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._last_data = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _is_one_too_many(self) -> bool:
        others = [
            other for other in self.connections if isinstance(other, LimitedProtocol) and other is not self
        ]
        address = self.client[0] if self.client else ""
        if not is_own_address(address):
            num_same = sum(other.client is not None and other.client[0] == address for other in others)
            if num_same >= MAX_PER_ADDRESS:
                return True
        if len(others) < self.max_connections:
            return False
        idle = [other for other in others if other.is_idle and not other.transport.is_closing()]
        if not idle:
            return True
        min(idle, key=lambda other: other._idle_since).transport.abort()
        return False

    def _look(self) -> None:
        now = self.loop.time()
        num_unsent = self.transport.get_write_buffer_size()
        if num_unsent == 0 or num_unsent != self._num_unsent:
            self._last_taken = now
        self._num_unsent = num_unsent
        if self.is_idle:
            is_slow = now - self._idle_since > REQUEST_SECONDS
        elif self.cycle.more_body and not self.flow.read_paused:
            is_slow = now - self._last_data > BODY_SECONDS
        else:
            is_slow = now - self._last_taken > READER_SECONDS
        if is_slow:
            self.transport.abort()
        else:
            self._look_task = self.loop.call_later(LOOK_INTERVAL, self._look)
