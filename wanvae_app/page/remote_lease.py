"""Lease: the run of one request of a program, which lives as long as the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.service import JobService
from wanvae_app.page.frame_stream import wait_for_frame
from wanvae_app.page.remote_body import Body

LOOK_SECONDS = 0.25  # between two looks at whether a program that waits is still there
SETTLE_SECONDS = 0.01  # between two looks at a run that is about to end


class Lease:
    """A run that lives as long as its request. `end` stops it, and deletes it when it has ended."""

    def __init__(self, jobs: JobService, run: JobState, body: Body, endings: set[asyncio.Task[None]]) -> None:
        self.jobs = jobs
        self.run = run
        self.body = body
        self._endings = endings  # keeps tasks alive

    def end(self) -> None:
        """Return at once; the rest happens in a task."""
        if not self.run.ended and not is_coded(self.run):
            self.run.stop("the program that asked for it has left")
        task = asyncio.get_running_loop().create_task(self._delete())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _delete(self) -> None:
        while not self.run.ended:
            await asyncio.sleep(LOOK_SECONDS)
        await asyncio.to_thread(self.jobs.store.delete, self.run)
        self.body.close()


class LeasedResponse:
    """A response whose run ends with it, however it ends."""

    def __init__(self, response: Response, lease: Lease) -> None:
        self.response = response
        self.lease = lease

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.response(scope, receive, send)
        finally:
            self.lease.end()


async def wait_until(request: Request, run: JobState, is_done: Callable[[], bool]) -> None:
    """Wait until `is_done()`, or the program has left.

    Raises HTTPException, with the run's sentence, if the run ends without; ClientDisconnect if the program leaves.
    """
    while True:
        run.seen()
        num_frames = len(run.frames)
        ended = run.ended
        if is_done():
            return
        if ended:
            status = 400 if run.refused else 500 if run.status == Status.FAILED else 503
            raise HTTPException(status, run.message)
        if await request.is_disconnected():
            raise ClientDisconnect
        if run.frames.finished:
            await asyncio.sleep(SETTLE_SECONDS)
        else:
            await wait_for_frame(run.frames, num_frames, LOOK_SECONDS)


def is_coded(run: JobState) -> bool:
    """Whether all frames, or the whole latent, are there."""
    return run.status in (Status.WRITING, Status.FINISHED) and len(run.frames) == run.num_frames
