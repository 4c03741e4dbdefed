"""Exports: makes the files that are asked for of ended runs, in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from wanvae_app.errors import tell
from wanvae_app.formats.frame_writer import WritingStopped, frame_batches
from wanvae_app.formats.latents import load_saved
from wanvae_app.formats.output_writer import write_with_sound
from wanvae_app.formats.outputs import OutputFormat, find_output
from wanvae_app.formats.sound import Sound, extract_sound
from wanvae_app.jobs.budget import Budget
from wanvae_app.jobs.deep_frames import deep_frame_batches
from wanvae_app.jobs.export import Export, ExportStatus
from wanvae_app.jobs.input_file import load_input
from wanvae_app.jobs.job import JobKind
from wanvae_app.jobs.job_state import JobState, Needs, Status

if TYPE_CHECKING:
    from wanvae_app.jobs.service import JobService

log = logging.getLogger(__name__)

MAX_WAITING = 16  # files that wait or are being made
MAX_PER_OWNER = 4  # of them


class Exports:
    """The files of runs beside their MP4 and latent. One is written at a time, with the lowest priority. Thread-safe.

    A format of 16 bits needs frames that no run keeps: the ranks decode the run's latent again, as a job of its own in
    the queue of all runs, and its frames go once the file is there.
    """

    def __init__(self, jobs: JobService, budget: Budget) -> None:
        self._jobs = jobs
        self._budget = budget
        self._starting = threading.Lock()  # one at a time; never taken by whoever holds another lock
        self._changed = threading.Condition()  # guards what follows; its holder takes no other lock
        self._waiting: list[Export] = []  # those that have not ended, oldest first
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self, run: JobState, name: str) -> Export:
        """Begin to make a run's file of the format of that name; return it if that has begun, or is done, already.

        Raises ValueError, in one sentence, if the file cannot be made; OSError if there is no folder for it.
        """
        output = find_output(name)
        with self._starting:
            known = run.exports.get(name)
            if known is not None and known.status not in (ExportStatus.STOPPED, ExportStatus.FAILED):
                return known
            self._check(run)
            output.check_size(run.frames.height, run.frames.width)
            export = self._reserved(run, output)
            try:
                export.folder = self._jobs.store.new_folder()
                if output.frame_bits == 16:
                    self._decode_again(export)
            except BaseException:
                export.status = ExportStatus.FAILED
                export.discard()
                del run.exports[name]
                raise
            with self._changed:
                self._waiting.append(export)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._loop, name="exports", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
        return export

    def stop(self, run: JobState, name: str) -> None:
        """Stop making a file, if it is being made."""
        export = run.exports.get(name)
        if export is not None:
            export.stop()
            self._notify()

    def close(self) -> None:
        """Stop all, and end the thread."""
        with self._changed:
            self._closing = True
            waiting = list(self._waiting)
        for export in waiting:
            export.stop()
        self._notify()
        if self._thread is not None:
            self._thread.join()

    def _check(self, run: JobState) -> None:
        """Raise ValueError, in one sentence, if no file can be made of the run, or none now."""
        if not run.ended:
            raise ValueError("This run has not ended: its files can be made when it has.")
        if not len(run.frames):
            raise ValueError("This run has no frames, so no file can be made of it.")
        if run.frames.closed:
            raise ValueError("The frames of this run have been deleted; run it again.")
        with self._changed:
            num_all = len(self._waiting)
            num_own = sum(other.run.owner == run.owner for other in self._waiting)
        if num_own >= MAX_PER_OWNER or num_all >= MAX_WAITING or self._closing:
            raise ValueError(
                f"{num_own or num_all} files are being made already; try again when one is done."
            )

    def _reserved(self, run: JobState, output: OutputFormat) -> Export:
        """Return a new export of the run, for whose file disk is kept free. Raises ValueError if that lacks."""
        frames = run.frames
        num_channels = frames.frame_bytes // (frames.height * frames.width)
        num_bytes = output.num_bytes_bound(len(frames), frames.height, frames.width, num_channels)
        export = Export(run, output, num_bytes)

        def keep() -> None:
            run.exports[output.name] = export

        if (old := run.exports.pop(output.name, None)) is not None:
            old.discard()
        self._budget.grant_file(run, num_bytes, keep)
        return export

    def _decode_again(self, export: Export) -> None:
        """Queue the run that decodes the latent with 16 bits. Raises ValueError if that cannot be done."""
        run, config = export.run, self._jobs.vaes[self._jobs.vaes.find(export.run.job.vae)].config
        latent = run.latent
        if latent is None and run.input_path is not None:
            with contextlib.suppress(FileNotFoundError):
                latent = load_input(run.input_path)
        if latent is None and run.latent_path is not None:  # a video's, of a run in the history
            with contextlib.suppress(FileNotFoundError):
                latent = load_saved(run.latent_path, config)
        if latent is None:
            raise ValueError(
                "The latent of this run is no longer there, and files of more than 8 bits are decoded from it; "
                "run it again."
            )
        num_latents = 1 + (len(run.frames) - 1) // config.temporal_factor  # of a stopped run not all
        job = run.job
        decoding = self._jobs.new_run(
            latent=latent[:, :, :num_latents], chunk=job.chunk, parallel=job.parallel, owner=run.owner,
            name=run.name, fps=run.fps, vae=job.vae, bit_depth=16,
        )  # fmt: skip
        decoding.address, decoding.wants_files, decoding.on_end = run.address, False, self._notify
        try:
            num_bytes = 2 * len(run.frames) * run.frames.frame_bytes
            needs = Needs(num_bytes, latent.numel() * latent.element_size())
            if not self._budget.grant(decoding, needs):
                raise ValueError(f"{run.name} has to wait for room on the server; try again later.")
            self._jobs.submit(decoding)
        except BaseException:
            self._jobs.store.discard(decoding)
            raise
        export.decoding = decoding
        export.status = ExportStatus.DECODING

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next() is not None)
                export = self._next()
                if export is None:
                    return
            self._make(export)
            with self._changed:
                self._waiting.remove(export)
            del export  # it would keep a deleted run in memory until the next one comes

    def _next(self) -> Export | None:
        """The oldest export that can be written or has been stopped."""
        return next((export for export in self._waiting if export.is_ready or export.stop_requested), None)

    def _make(self, export: Export) -> None:
        """Write the file, and say how that ended."""
        status, message = ExportStatus.FINISHED, ""
        try:
            message = self._write(export)
        except WritingStopped:
            status = ExportStatus.STOPPED
        except (ValueError, OSError) as error:
            status, message = ExportStatus.FAILED, tell(error, export.file_name)
        except Exception as error:  # any: this thread must live on for the next file
            log.exception("job %s: no %s", export.run.id[:8], export.output.name)
            status = ExportStatus.FAILED
            message = f"{export.file_name} could not be made ({type(error).__name__}); the log says more."
        if export.decoding is not None:
            self._jobs.store.delete(export.decoding)
            export.decoding = None
        export.message = message
        export.status = status
        log.info("job %s: %s %s %s", export.run.id[:8], export.output.name, status, message)

    def _write(self, export: Export) -> str:
        """Write the file from the frames that are there. Return what is odd about it, in a sentence."""
        run, output, decoding = export.run, export.output, export.decoding
        if export.stop_requested:
            raise WritingStopped("The export was stopped.")
        if decoding is not None and decoding.status != Status.FINISHED:
            raise ValueError(decoding.message)
        export.status = ExportStatus.WRITING
        assert export.folder is not None
        path = export.folder / f"{output.name}{output.suffix}"

        def frames() -> Iterator[np.ndarray]:
            return frame_batches(run.frames) if decoding is None else deep_frame_batches(decoding.frames)

        def on_progress(num_frames: int) -> None:
            export.num_written = num_frames

        problem = write_with_sound(
            output, frames, path, rate=run.fps, sound=self._sound(export), num_frames=export.num_frames,
            is_background=True, is_stopped=lambda: export.stop_requested, on_progress=on_progress,
        )  # fmt: skip
        export.path = path
        return problem

    def _sound(self, export: Export) -> Sound | None:
        """The run's sound. A run of an earlier start has it in its MP4 alone."""
        run = export.run
        if run.sound is not None or run.job.kind != JobKind.ROUNDTRIP or run.video_path is None:
            return run.sound
        assert export.folder is not None
        try:
            return extract_sound(
                run.video_path, export.folder / "sound.mka", 0.0, export.num_frames / run.fps
            )
        except ValueError as error:
            log.warning("job %s: %s", run.id[:8], error)
            return None

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
