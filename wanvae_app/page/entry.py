"""HistoryEntry: one run, what it was started with, and what is known of its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wanvae_app.formats.latent_origin import Misfit
from wanvae_app.jobs.job_state import JobState


@dataclass
class RunInput:
    """What a run was started with. Runs of equal `digest` had the same input, so they are compared.

    Of an upload, all is empty until the file is read.
    """

    digest: str  # of the file's content; for a latent also its scaling
    scaling: str = ""  # "normalised" or "raw"; empty for a video
    note: str = ""  # sentences for the page: how the file was read, cropped and cut
    why: str = ""  # more about the scaling, for whoever asks
    misfit: Misfit = Misfit()  # whether a latent fits the VAE
    doubt: str = ""  # what the file left open, in a sentence for programs; empty if nothing


@dataclass
class HistoryEntry:
    """One run with its input and its result. `settled` says that nothing will be added."""

    run: JobState
    input: RunInput
    number: int  # counts the owner's runs, from 1
    settled: bool = False
    is_cold: bool = (
        False  # whether it was the first of its shape on these ranks: its time includes warming up
    )
    psnr: float | None = None  # dB, of a roundtrip's frames and its source; infinite if they are equal
    comparison: dict[str, Any] | None = None  # with an earlier run of the same input, see `comparison_json`
    picture: bytes | None = None  # a small JPEG of the run's frames, once it has ended
    is_deleted: bool = False  # by its owner
    problem: str = ""  # why the run will not outlive the app, in a sentence

    @property
    def key(self) -> tuple[str, str]:
        """Owner and digest: equal for runs that belong into one table."""
        return self.run.owner, self.input.digest

    @property
    def seconds(self) -> float | None:
        """Seconds from the start on all ranks to the last frame; None before the end, or if it never started."""
        run = self.run
        return run.finished - run.started if run.finished and run.started else None

    @property
    def first_frame_seconds(self) -> float | None:
        """Seconds from the start on all ranks to the first frame; None before it."""
        run = self.run
        return run.first_frame - run.started if run.first_frame and run.started else None

    @property
    def frames_per_second(self) -> float | None:
        """Decoded frames per second from the start to the newest frame, encoding time left out; None before it."""
        run = self.run
        if run.started is None or not len(run.frames):
            return None
        newest = run.frames.times[-1] - run.started
        if run.activity:
            done = [a for a in run.activity if a.phase == "encode" and a.rank == 0 and a.start < newest]
            encode_seconds = sum(a.compute_seconds + a.wait_seconds for a in done)
        else:
            encode_seconds = run.encode_seconds or 0.0
        decode_seconds = newest - encode_seconds
        return len(run.frames) / decode_seconds if decode_seconds > 0 else None
