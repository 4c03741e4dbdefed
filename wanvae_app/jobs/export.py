"""Export: one file that was asked for of a run's frames, and how far it is."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path

from wanvae_app.formats.outputs import OutputFormat
from wanvae_app.jobs.job_state import JobState


class ExportStatus(StrEnum):
    """How far a file is. DECODING: the ranks decode the run's latent again, with 16 bits."""

    WAITING = "waiting"
    DECODING = "decoding"
    WRITING = "writing"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether this status is final."""
        return self in (ExportStatus.FINISHED, ExportStatus.STOPPED, ExportStatus.FAILED)


class Export:
    """One file of one run. Its own folder goes with the run. `Exports` sets attributes; any thread may read them."""

    def __init__(self, run: JobState, output: OutputFormat, reserved_bytes: int) -> None:
        self.run = run
        self.output = output
        self.reserved_bytes = reserved_bytes  # of disk, for the whole file
        self.status = ExportStatus.WAITING
        self.message = ""  # why it failed, or what is odd about the file, in a sentence
        self.folder: Path | None = None
        self.path: Path | None = None  # of the file, once it is whole
        self.decoding: JobState | None = None  # the run that decodes with 16 bits
        self.num_written = 0  # frames
        self.num_frames = len(run.frames)
        self.stop_requested = False

    @property
    def file_name(self) -> str:
        """The file's name for whoever downloads it: the input's, with the format."""
        return f"{Path(self.run.name).stem or 'clip'}-{self.output.name}{self.output.suffix}"

    @property
    def num_bytes(self) -> int:
        """Bytes of disk that the file takes now."""
        if self.folder is None:
            return 0
        try:
            return sum(path.stat().st_size for path in self.folder.iterdir())
        except FileNotFoundError:  # it is being deleted
            return 0

    @property
    def num_bytes_to_come(self) -> int:
        """Bytes of disk that are kept free for the rest of the file."""
        return 0 if self.status.ended else max(0, self.reserved_bytes - self.num_bytes)

    @property
    def is_ready(self) -> bool:
        """Whether it waits to be written, and its frames are there."""
        return not self.status.ended and (self.decoding is None or self.decoding.ended)

    @property
    def progress(self) -> float:
        """The share of the work that is done, 0 to 1; decoding is half of it."""
        if self.status == ExportStatus.FINISHED:
            return 1.0
        written = self.num_written / max(self.num_frames, 1)
        if self.output.frame_bits == 8:
            return written
        decoded = len(self.decoding.frames) if self.decoding is not None else 0
        return (decoded / max(self.num_frames, 1) + written) / 2

    def stop(self) -> None:
        """Ask for the end."""
        self.stop_requested = True
        if self.decoding is not None:
            self.decoding.stop()

    def discard(self) -> None:
        """Stop it, and delete its file."""
        self.stop()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
