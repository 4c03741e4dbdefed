"""Writer: the files of finished runs, written one after the other beside the next decode."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable

from wanvae_app.config import WanConfig
from wanvae_app.formats.latents import write_latent
from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.jobs.job import JobState

log = logging.getLogger(__name__)

Done = Callable[[JobState, str], None]  # run, message


class Writer:
    """Writes a run's MP4, and the latent of a roundtrip, into the run's folder.

    What cannot be written costs the download only: the frames stay watchable, and the message says why.
    """

    def __init__(self, config: WanConfig) -> None:
        self.config = config
        self._queue: queue.Queue[tuple[JobState, Done] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def put(self, run: JobState, done: Done) -> None:
        """Write the run's files some time; then call done(run, message)."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="writer", daemon=True)
            self._thread.start()
        self._queue.put((run, done))

    def close(self) -> None:
        """Forget what has not been begun, and end the thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while (item := self._queue.get()) is not None:
            run, done = item
            done(run, self._write(run))
            del item, run, done  # until the next comes, a deleted run must not be held here

    def _write(self, run: JobState) -> str:
        problems = [run.frames.warning] if run.frames.warning else []
        try:
            path = run.folder / f"{run.id[:8]}.mp4"
            write_mp4(run.frames, path, run.fps)
            run.video_path = path
        except Exception as error:  # whatever it is, this thread must live for the next run
            log.exception("job %s: no MP4", run.id[:8])
            problems.append(f"The MP4 could not be written: {error}")
        try:
            if run.job.kind == "roundtrip":
                path = run.folder / f"{run.id[:8]}.safetensors"
                assert run.latent is not None
                write_latent(run.latent, path, self.config)
                run.latent_path = path
        except Exception as error:
            log.exception("job %s: no latent", run.id[:8])
            problems.append(f"The latent could not be written: {error}")
        return ". ".join(["Finished", *problems]).removesuffix(".") + "."
