"""The API endpoint /export: a file of a run in another format, for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from wanvae_app.errors import tell
from wanvae_app.jobs.export import Export, ExportStatus
from wanvae_app.jobs.service import JobService
from wanvae_app.page.auth import SESSION_PREFIX, owner_of
from wanvae_app.page.export_routes import export_json
from wanvae_app.page.file_components import publish_file
from wanvae_app.page.history import History

POLL_INTERVAL = 0.1  # seconds between two looks at how far the file is
UPDATE_INTERVAL = 0.5  # seconds between two updates of a call


class ExportHandler:
    """Makes files for callers of the endpoint. Nothing here issues a collective."""

    def __init__(self, jobs: JobService, history: History) -> None:
        self.jobs = jobs
        self.history = history

    def export(
        self, job: str, format: str, request: gr.Request
    ) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Make a file of an ended run in another format, and return it.

        `job` is the run's id, as /run calls it. Formats of more than 8 bits are decoded again from the run's latent.
        Streams how far the file is as JSON: state, progress from 0 to 1, message, name, bytes; the last one comes with
        the file. Ending the call stops the work.
        """
        owner = owner_of(request)
        try:
            entry = self.history.get(job, owner)
            if entry is None or not (entry.run.owner.startswith(SESSION_PREFIX) or entry.run.owner == owner):
                raise ValueError("There is no such run.")
            run = entry.run
            export = self.jobs.exports.start(run, format)
        except (ValueError, OSError) as error:
            raise gr.Error(tell(error, "The file"), print_exception=False) from error
        try:
            while not export.status.ended:
                run.seen()
                yield export_json(export), None
                _wait(export)
            if export.status != ExportStatus.FINISHED or export.path is None:
                raise gr.Error(export.message or "The file was stopped.", print_exception=False)
            try:
                link = publish_file(run, export.path, export.file_name)
            except OSError as error:
                raise gr.Error(tell(error, export.file_name), print_exception=False) from error
            yield export_json(export), link
        finally:
            if not export.status.ended:
                self.jobs.exports.stop(run, format)


def _wait(export: Export) -> None:
    """Wait for the next update. Gradio can end a call only at a yield, so it is short."""
    end = time.monotonic() + UPDATE_INTERVAL
    while not export.status.ended and time.monotonic() < end:
        time.sleep(POLL_INTERVAL)
