"""The page's own routes: a run's frames as they are made, its state, its files, and the app's health.

live/ID?view=decoded&start=K  frames from K on, as records (see frame_stream.py), until the clip ends; view=source
                              gives a video's own frames
live/ID/state?activity=K      JSON, see `state_json`, without the first K activities; asking counts as watching
live/ID/stop                  POST: end the run on all ranks
live/ID/video.mp4, live/ID/latent.safetensors
                              the latter with ?format=NAME in one of LATENT_FORMATS, "Raw" or "ComfyUI raw" for instance
runs?seen=ID,ID               JSON: the runs of the visitor who asks, newest first, see `listed_json`, and whether
                              they are kept; those that are named count as watched
runs/ID                       DELETE: the run and all that is kept of it
runs/ID/picture.jpg           a small picture of it
health                        JSON: ready, busy or broken; which code path codes, and why; the names of the VAEs, and
                              which are loaded
logout                        POST: end this browser's login
page/NAME.js                  the page's scripts, see scripts.py

Exact frames, and clips compared, have routes of their own: see compare_routes.py. So has the remote VAE of other
programs: see remote_routes.py.

A run of an earlier start is opened like a fresh one. A run that does not exist and a run of somebody else both get 404.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import COOKIE, is_logged_in, log_out, may_use
from wanvae_app.page.clips import deleted, find_entry
from wanvae_app.page.compare_routes import make_compare_routes
from wanvae_app.page.entry import HistoryEntry
from wanvae_app.page.frame_stream import stream_records
from wanvae_app.page.history import History
from wanvae_app.page.latent_download import converted_answer
from wanvae_app.page.remote_routes import make_remote_routes
from wanvae_app.page.run_json import state_json
from wanvae_app.page.scripts import Scripts

MAX_SEEN = 64  # runs that one request says are watched


def make_routes(jobs: JobService, history: History) -> list[BaseRoute]:
    """Make the routes. The app must get them before it starts, so that no request comes too early."""
    handlers = RouteHandlers(jobs, history)
    return [
        Route("/live/{id}", handlers.frames),
        Route("/live/{id}/state", handlers.state),
        Route("/live/{id}/stop", handlers.stop, methods=["POST"]),
        Route("/live/{id}/video.mp4", handlers.video),
        Route("/live/{id}/latent.safetensors", handlers.latent),
        Route("/runs", handlers.runs),
        Route("/runs/{id}", handlers.delete, methods=["DELETE"]),
        Route("/runs/{id}/picture.jpg", handlers.picture),
        Route("/health", handlers.health),
        Route("/logout", handlers.logout, methods=["POST"]),
        Route("/page/{name}", Scripts().script),
        *make_compare_routes(history),
        *make_remote_routes(jobs),
    ]


class RouteHandlers:
    """One method per route."""

    def __init__(self, jobs: JobService, history: History) -> None:
        self.jobs = jobs
        self.history = history
        self.boot = secrets.token_hex(8)  # differs after a restart, so that a page notices it

    async def frames(self, request: Request) -> Response:
        run = self._entry(request).run
        log = run.source if request.query_params.get("view") == "source" else run.frames
        start = _count(request, "start", "start must be the number of a frame")
        if log is None or log.closed:
            raise deleted()
        return StreamingResponse(
            stream_records(log, start, run),
            media_type="application/octet-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def state(self, request: Request) -> Response:
        entry = self._entry(request)
        entry.run.seen()
        num_known = _count(request, "activity", "activity must be a number")
        rows = await asyncio.to_thread(self.history.rows, entry)  # may read files of past runs
        return _json(state_json(entry, num_known) | {"rows": rows})

    async def stop(self, request: Request) -> Response:
        self._entry(request).run.stop()
        return _json({"stopping": True})

    async def video(self, request: Request) -> Response:
        run = self._entry(request).run
        return _file(run.video_path, f"{Path(run.name).stem}-decoded.mp4")

    async def latent(self, request: Request) -> Response:
        run, name = self._entry(request).run, request.query_params.get("format", "")
        if name and run.latent_path is not None and run.latent_path.is_file():
            config = self.jobs.vaes[run.job.vae].config
            stem = Path(run.name).stem
            return await asyncio.to_thread(
                converted_answer, run.latent_path, self.jobs.store.folder, stem, config, name
            )
        return _file(run.latent_path, f"{Path(run.name).stem}-latent.safetensors")

    async def runs(self, request: Request) -> Response:
        owner = _visitor(request)
        for run_id in request.query_params.get("seen", "").split(",")[:MAX_SEEN]:
            run = self.jobs.get(run_id)
            if run is not None and may_use(request, run.owner):
                run.seen()
        runs = await asyncio.to_thread(self.history.listed, owner) if owner else []
        return _json({"runs": runs, "kept": self.history.past.is_kept})

    async def delete(self, request: Request) -> Response:
        entry = find_entry(self.history, request, request.path_params["id"], opens=False)
        if not entry.settled:
            raise HTTPException(409, "Stop this run first, or wait for its end.")
        await asyncio.to_thread(self.history.delete, entry)
        return _json({"deleted": True})

    async def picture(self, request: Request) -> Response:
        entry = find_entry(self.history, request, request.path_params["id"], opens=False)
        if entry.picture is None:
            raise HTTPException(404, "This run has no picture.")
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(entry.picture, media_type="image/jpeg", headers=headers)

    async def health(self, request: Request) -> Response:
        """Needs no login, for service managers; tells nothing of any run."""
        jobs, path = self.jobs, self.jobs.vae.path
        vaes = [{"name": name, "loaded": jobs.vaes.is_loaded(name)} for name in jobs.vaes.names]
        return _json(
            {
                "state": jobs.health,
                "boot": self.boot,
                "last_words": jobs.group.last_words,
                "path": path.name,
                "path_reason": path.reason,
                "vaes": vaes,
            }
        )

    async def logout(self, request: Request) -> Response:
        return log_out(request)

    def _entry(self, request: Request) -> HistoryEntry:
        """The run that the path names. Raises HTTPException as `find_entry` does."""
        return find_entry(self.history, request, request.path_params["id"])


def _visitor(request: Request) -> str:
    """The browser's cookie, "" if it has none. Raises 401 without a login."""
    if not is_logged_in(request):
        raise HTTPException(401, "Log in first.")
    return request.cookies.get(COOKIE, "")


def _count(request: Request, name: str, refusal: str) -> int:
    """A whole number from the query, 0 if it is missing or negative. Raises 400 with `refusal` for anything else."""
    try:
        return max(0, int(request.query_params.get(name, "0")))
    except ValueError:
        raise HTTPException(400, refusal) from None


def _file(path: Path | None, name: str) -> Response:
    if path is None or not path.is_file():
        raise HTTPException(404, "This run has no such file.")
    return FileResponse(path, filename=name)  # answers Range requests


def _json(value: dict[str, Any]) -> Response:
    return JSONResponse(value, headers={"Cache-Control": "no-store"})
