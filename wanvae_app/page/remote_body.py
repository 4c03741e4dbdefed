"""BodyRoom: takes the bodies of programs' requests into files, within limits of bytes, number and time."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator
from typing import IO

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from wanvae_app.jobs.budget import amount, free_disk
from wanvae_app.jobs.result_store import ResultStore

SHARE = 0.5  # of the free disk that all bodies together may take
MAX_BODIES = 16  # that are there at once
START_SECONDS = 60.0  # for any body
BYTES_PER_SECOND = 50_000  # that a larger one must reach on average
MAX_DRAINED = 2**26  # bytes of a refused body that are read, so that its sender reads the refusal
DRAIN_SECONDS = 10.0
WRITE_BYTES = 2**20  # that are written to the file at once


class Body:
    """A request's body in a file that has no name. `close` frees it; it may be called more than once."""

    def __init__(self, room: BodyRoom, file: IO[bytes], num_reserved: int) -> None:
        self.file = file
        self.num_bytes = 0  # that have come
        self._room = room
        self._num_reserved = num_reserved
        self._is_closed = False

    def close(self) -> None:
        """Free the disk. Memory that maps the file stays valid."""
        if not self._is_closed:
            self._is_closed = True
            self.file.close()
            self._room.release(self._num_reserved)


class BodyRoom:
    """Keeps count of the bodies that are there. Thread-safe."""

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._num_bodies = 0
        self._num_reserved = 0  # bytes

    async def take(self, request: Request, num_bytes: int, exactly: bool = True) -> Body:
        """Read a body of `num_bytes`, or if not `exactly` of so many at most.

        Raises HTTPException, with one sentence, for a body of another length, one that comes too slowly, and where
        there is no room; ClientDisconnect if it is broken off. Nothing is left of it then.
        """
        stated = request.headers.get("content-length", "")
        if stated.isascii() and stated.isdigit() and _is_wrong(int(stated), num_bytes, exactly):
            await drain(request)
            raise _wrong_length(int(stated), num_bytes, exactly)
        if refusal := self._reserve(num_bytes):
            await drain(request)
            raise refusal
        try:
            await asyncio.to_thread(self._store.make_folder)
            file = tempfile.TemporaryFile(dir=self._store.folder)  # noqa: SIM115  # closed by the body
            body = Body(self, file, num_bytes)
        except BaseException:
            self.release(num_bytes)
            raise
        try:
            async with asyncio.timeout(START_SECONDS + num_bytes / BYTES_PER_SECOND):
                async with contextlib.aclosing(request.stream()) as parts:
                    await _write(body, parts, num_bytes, exactly)
        except TimeoutError:
            body.close()
            raise HTTPException(408, "The request's body came too slowly; send it again.") from None
        except BaseException:
            body.close()
            raise
        return body

    def _reserve(self, num_bytes: int) -> HTTPException | None:
        """Keep room for a body; return the refusal if there is none."""
        with self._lock:
            if self._num_bodies >= MAX_BODIES:
                return HTTPException(
                    503, f"{MAX_BODIES} requests are being received already; try again later."
                )
            most = int(SHARE * (free_disk(self._store.folder) + self._num_reserved)) - self._num_reserved
            if num_bytes > most:
                return HTTPException(
                    507,
                    f"This body has {amount(num_bytes)}, and {amount(most)} are free for it on the server; send a "
                    "smaller one, or try again later.",
                )
            self._num_bodies += 1
            self._num_reserved += num_bytes
            return None

    def release(self, num_bytes: int) -> None:
        """Forget a body for which so many bytes were reserved."""
        with self._lock:
            self._num_bodies -= 1
            self._num_reserved -= num_bytes


async def drain(request: Request) -> None:
    """Read a bounded part of a body that is refused: most programs read an answer only when they have sent all."""
    num_drained = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for part in request.stream():
                num_drained += len(part)
                if num_drained > MAX_DRAINED:
                    return


async def _write(body: Body, parts: AsyncIterator[bytes], num_bytes: int, exactly: bool) -> None:
    """Write the parts into the body's file. Raises HTTPException for a body of another length."""
    pending: list[bytes] = []
    num_pending = 0
    async for part in parts:
        body.num_bytes += len(part)
        if body.num_bytes > num_bytes:
            raise _wrong_length(None, num_bytes, exactly)
        pending.append(part)
        num_pending += len(part)
        if num_pending >= WRITE_BYTES:
            await asyncio.to_thread(body.file.write, b"".join(pending))
            pending, num_pending = [], 0
    if _is_wrong(body.num_bytes, num_bytes, exactly):
        raise _wrong_length(body.num_bytes, num_bytes, exactly)
    await asyncio.to_thread(body.file.write, b"".join(pending))
    await asyncio.to_thread(body.file.flush)


def _is_wrong(length: int, num_bytes: int, exactly: bool) -> bool:
    return length > num_bytes or length == 0 or (exactly and length != num_bytes)


def _wrong_length(length: int | None, num_bytes: int, exactly: bool) -> HTTPException:
    found = f"{length}" if length is not None else f"more than {num_bytes}"
    if not exactly:
        return HTTPException(
            413 if length != 0 else 400, f"The body has {found} bytes; 1 to {num_bytes} are taken."
        )
    return HTTPException(
        400,
        f"The body has {found} bytes, but its shape and dtype make {num_bytes}; send the tensor's own bytes.",
    )
