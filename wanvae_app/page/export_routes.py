"""Routes of the files that are made of a run when they are asked for, one for each format in formats/outputs.py.

live/ID/exports             JSON: all formats, what they are for, and how far the run's file of each is
live/ID/exports/NAME        POST: begin to make the file; DELETE: stop making it
live/ID/exports/NAME/file   the file, once it is there, under the input's name

Asking counts as watching the run. `make_routes` says who may ask.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from wanvae_app.errors import tell
from wanvae_app.formats.outputs import OUTPUTS
from wanvae_app.jobs.export import Export, ExportStatus
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.page.clips import find_entry
from wanvae_app.page.history import History


def make_export_routes(jobs: JobService, history: History) -> list[BaseRoute]:
    """Make the routes of the module's description."""
    handlers = ExportHandlers(jobs, history)
    return [
        Route("/live/{id}/exports", handlers.listed),
        Route("/live/{id}/exports/{name}", handlers.start, methods=["POST"]),
        Route("/live/{id}/exports/{name}", handlers.stop, methods=["DELETE"]),
        Route("/live/{id}/exports/{name}/file", handlers.file),
    ]


def export_json(export: Export) -> dict[str, Any]:
    """How far a file is. `progress` is 0 to 1; `message` says what went wrong, or is odd about the file."""
    return {
        "state": export.status,
        "progress": export.progress,
        "place": export.decoding.queue_place() if export.decoding is not None else 0,
        "message": export.message,
        "name": export.file_name,
        "bytes": export.num_bytes if export.status == ExportStatus.FINISHED else None,
    }


class ExportHandlers:
    """One method per route."""

    def __init__(self, jobs: JobService, history: History) -> None:
        self.jobs = jobs
        self.history = history

    async def listed(self, request: Request) -> Response:
        run = self._run(request)
        formats = []
        for output in OUTPUTS:
            export = run.exports.get(output.name)
            formats.append(output.to_json() | {"export": export_json(export) if export is not None else None})
        return _json({"formats": formats})

    async def start(self, request: Request) -> Response:
        run, name = self._run(request), request.path_params["name"]
        try:
            export = await asyncio.to_thread(self.jobs.exports.start, run, name)
        except (ValueError, OSError) as error:
            raise HTTPException(409, tell(error, "The file")) from error
        return _json(export_json(export))

    async def stop(self, request: Request) -> Response:
        self.jobs.exports.stop(self._run(request), request.path_params["name"])
        return _json({"stopping": True})

    async def file(self, request: Request) -> Response:
        export = self._run(request).exports.get(request.path_params["name"])
        if export is None or export.path is None or not export.path.is_file():
            raise HTTPException(404, "This run has no such file.")
        return FileResponse(export.path, filename=export.file_name)  # answers Range requests

    def _run(self, request: Request) -> JobState:
        """The run that the path names. Raises HTTPException as `find_entry` does."""
        run = find_entry(self.history, request, request.path_params["id"]).run
        run.seen()
        return run


def _json(value: dict[str, Any]) -> Response:
    return JSONResponse(value, headers={"Cache-Control": "no-store"})
