"""The page's own routes: a run's frames as they come to exist, its state, its files, and the app's health.

live/ID?view=decoded&start=K  frames from K on: records of index (u32), length (u32), time (f64, seconds from the
                              run's start until it was there), all little-endian, and `length` bytes of JPEG; ends
                              with the clip
live/ID/state?activity=K      JSON, see `snapshot`; asking for it counts as watching the run
live/ID/stop                  POST: end the run on all ranks
live/ID/video.mp4, live/ID/latent.safetensors
health                        JSON: ready, busy or broken
page/NAME.js                  the page's scripts, see scripts.py

Whoever did not start a run gets 404 for it, as for one that never was.
"""

from __future__ import annotations

import asyncio
import io
import math
import secrets
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import may_enter, may_see
from wanvae_app.page.history import Entry, History, finite, rate
from wanvae_app.page.scripts import Scripts

RECORD = struct.Struct("<IId")
POLL = 0.01  # seconds between looks for a new frame; cheaper than a waiting thread per viewer


def make_routes(jobs: JobService, history: History) -> list[BaseRoute]:
    """The routes, to be given to the app before it starts."""
    live = Routes(jobs, history)
    return [
        Route("/live/{id}", live.frames),
        Route("/live/{id}/state", live.state),
        Route("/live/{id}/stop", live.stop, methods=["POST"]),
        Route("/live/{id}/video.mp4", live.video),
        Route("/live/{id}/latent.safetensors", live.latent),
        Route("/health", live.health),
        Route("/page/{name}", Scripts().script),
    ]


class Routes:
    """The routes' handlers."""

    def __init__(self, jobs: JobService, history: History) -> None:
        self.jobs = jobs
        self.history = history
        self.boot = secrets.token_hex(8)  # lets a page notice that this is another server than before

    async def frames(self, request: Request) -> Response:
        entry = self._entry(request)
        run = entry.run
        log = run.source if request.query_params.get("view") == "source" else run.frames
        try:
            start = max(0, int(request.query_params.get("start", "0")))
        except ValueError:
            raise HTTPException(400, "start must be the number of a frame") from None
        if log is None or log.closed:
            raise HTTPException(410, "These frames have been deleted; run it again.")
        return StreamingResponse(
            records(log, start, run),
            media_type="application/octet-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def state(self, request: Request) -> Response:
        entry = self._entry(request)
        entry.run.seen()
        try:
            since = max(0, int(request.query_params.get("activity", "0")))
        except ValueError:
            raise HTTPException(400, "activity must be a number") from None
        return _json(snapshot(entry, since) | {"rows": self.history.rows(entry)})

    async def stop(self, request: Request) -> Response:
        self._entry(request).run.stop()
        return _json({"stopping": True})

    async def video(self, request: Request) -> Response:
        run = self._entry(request).run
        return _file(run.video_path, f"{Path(run.name).stem}-decoded.mp4")

    async def latent(self, request: Request) -> Response:
        run = self._entry(request).run
        return _file(run.latent_path, f"{Path(run.name).stem}-latent.safetensors")

    async def health(self, request: Request) -> Response:
        # Open to everybody, so that a service manager can ask: it tells nothing of any run.
        news = {"state": self.jobs.health, "boot": self.boot, "last_words": self.jobs.group.last_words}
        return _json(news)

    def _entry(self, request: Request) -> Entry:
        if not may_enter(request):
            raise HTTPException(401, "Log in first.")
        entry = self.history.get(request.path_params["id"])
        if entry is None or not may_see(request, entry.run.owner):
            raise HTTPException(404, "There is no such run.")
        return entry


async def records(log: FrameLog, start: int, run: JobState) -> AsyncIterator[bytes]:
    """A viewer's stream. A frame is encoded when the viewer takes it, so a slow one delays nobody else. As long as its
    connection stands, somebody is watching."""
    index = start
    while True:
        run.seen()
        if index < len(log):
            try:
                yield await asyncio.to_thread(encode_record, log, index, run)
            except ValueError:  # the run was deleted while its frames were being watched
                return
            index += 1
        elif log.finished:
            return
        else:
            await asyncio.sleep(POLL)


def encode_record(log: FrameLog, index: int, run: JobState) -> bytes:
    """One frame as a record. Quality 90 with full colour resolution is visually clean at 1.5 ms per 480p frame."""
    data = io.BytesIO()
    Image.fromarray(log.read(index, index + 1)[0]).save(data, "JPEG", quality=90, subsampling=0)
    jpeg = data.getvalue()
    begun = run.started if run.started is not None else math.inf  # a video's own frames are there before
    return RECORD.pack(index, len(jpeg), max(0.0, log.times[index] - begun)) + jpeg


def snapshot(entry: Entry, since: int = 0) -> dict[str, Any]:
    """A run's present state for page and API; `since` is how many of its activities are known there already."""
    run, job = entry.run, entry.run.job
    now = run.finished if run.finished is not None else time.monotonic()
    origin = run.started if run.started is not None else now
    return {
        "job": run.id,
        "name": run.name,
        "kind": job.kind,
        "number": entry.number,
        "state": run.status,
        "stopping": run.stop_requested and not run.ended,
        "message": run.message,
        "place": run.queue_place(),
        "phase": run.phase,
        "phases": {phase.value: [run.done[phase], job.shape[1]] for phase in job.phases},
        "frames": len(run.frames),
        "num_frames": run.num_frames,
        "height": run.frames.height,
        "width": run.frames.width,
        "source": run.source is not None and not run.source.closed,
        "fps": run.fps,
        "parallel": job.parallel,
        "ranks": run.num_ranks,
        "chunk": job.chunk,
        "latent": list(job.shape),
        "scaling": entry.given.scaling,
        "note": entry.given.note,
        "warning": run.frames.warning,
        "elapsed": max(0.0, now - origin),
        "first": run.first_frame - origin if run.first_frame is not None else None,
        "rate": rate(run),
        "encode_seconds": run.encode_seconds,
        "decode_seconds": run.decode_seconds,
        "peak": list(run.peak_bytes),
        "activity": [astuple(activity) for activity in run.activity[since:]],
        "video_file": _exists(run.video_path),
        "latent_file": _exists(run.latent_path),
        "psnr": finite(entry.psnr),
        "comparison": entry.comparison,
        "settled": entry.settled,
    }


def _exists(path: Path | None) -> bool:
    return path is not None and path.is_file()


def _file(path: Path | None, name: str) -> Response:
    if path is None or not path.is_file():
        raise HTTPException(404, "This run has no such file.")
    return FileResponse(path, filename=name)  # answers Range requests


def _json(value: dict[str, Any]) -> Response:
    return JSONResponse(value, headers={"Cache-Control": "no-store"})
