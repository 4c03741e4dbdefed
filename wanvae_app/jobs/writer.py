"""Writer: writes the files of decoded runs in a thread of its own, while the ranks work on the next run."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable

from wanvae_app.formats.latents import write_latent
from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.jobs.input_file import save_input
from wanvae_app.jobs.job import JobKind
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.vae_cache import VaeCache

log = logging.getLogger(__name__)

OnWritten = Callable[
    [JobState, list[str]], None
]  # gets the run, and sentences, without full stops, of what failed


class Writer:
    """Writes a run's MP4, and a finished roundtrip's latent, into the run's folder.

    If a file cannot be written, only its download is missing: the frames can still be watched, and the message says
    why.
    """

    def __init__(self, vaes: VaeCache) -> None:
        self._vaes = vaes
        self._queue: queue.Queue[tuple[JobState, OnWritten] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def put(self, run: JobState, on_written: OnWritten) -> None:
        """Write the run's files when its turn comes; then call `on_written` in the writer's thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="writer", daemon=True)
            self._thread.start()
        self._queue.put((run, on_written))

    def close(self) -> None:
        """Drop the runs that wait, finish the present one, and end the thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while (item := self._queue.get()) is not None:
            run, on_written = item
            on_written(run, self._write(run))
            del item, run, on_written  # these would keep a deleted run in memory until the next run comes

    def _write(self, run: JobState) -> list[str]:
        """Write the files; return what failed."""
        problems = [run.warning] if run.warning else []
        try:
            path = run.folder / f"{run.id[:8]}.mp4"
            if problem := write_mp4(run.frames, path, run.fps, run.sound):
                problems.append(problem)
            run.video_path = path
        except Exception as error:  # any: this thread must live on for the next run
            log.exception("job %s: no MP4", run.id[:8])
            problems.append(f"The MP4 could not be written: {_reason(error)}")
        try:
            if run.job.kind == JobKind.ROUNDTRIP and len(run.frames) == run.num_frames:
                path = run.folder / f"{run.id[:8]}.safetensors"
                assert run.latent is not None
                write_latent(run.latent, path, self._vaes[run.job.vae].config, fps=run.fps)
                run.latent_path = path
        except Exception as error:
            log.exception("job %s: no latent", run.id[:8])
            problems.append(f"The latent could not be written: {_reason(error)}")
        try:
            if run.job.kind == JobKind.DECODE and run.latent is not None:
                path = run.folder / f"{run.id[:8]}-input.safetensors"
                save_input(run.latent, path)
                run.input_path = path
        except Exception as error:
            log.exception("job %s: its latent is not kept", run.id[:8])
            problems.append(f"Files of more than 8 bits cannot be made: {_reason(error)}")
        return problems


def _reason(error: Exception) -> str:
    """What went wrong, without a path of the server."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
