"""JobState: how far one job is, as rank 0 keeps it for any number of pages.

Users, and the page, call a job that was started a run: a variable `run` holds its JobState.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from wanvae_app.errors import plural
from wanvae_app.formats.sound import Sound
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import Job, Phase
from wanvae_app.jobs.unread_input import InputPlan, UnreadInput

if TYPE_CHECKING:
    from wanvae_app.jobs.export import Export


class Status(StrEnum):
    """How far a job is. WRITING: all frames exist, the files to download do not yet."""

    QUEUED = "queued"
    RUNNING = "running"
    WRITING = "writing"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether this status is final."""
        return self in (Status.FINISHED, Status.STOPPED, Status.FAILED)


@dataclass(frozen=True)
class Activity:
    """One rank's work on one chunk."""

    rank: int
    phase: Phase
    chunk: int  # from 0
    start: float  # seconds since the job started
    compute_seconds: float
    wait_seconds: float  # that the rank stood in exchanges with other ranks


class Needs(NamedTuple):
    """Bytes that a run takes at most."""

    disk: int
    memory: int


class JobState:
    """One job on rank 0: its input, its progress and its results.

    The jobs thread and its helpers set attributes, and any thread may read them; `change` wakes the threads in `wait`.
    All times are seconds of `time.monotonic`.
    """

    def __init__(
        self,
        job: Job,
        *,
        folder: Path,
        frames: FrameLog,
        num_frames: int,
        owner: str = "",
        name: str = "",
        fps: float = 16.0,
        latent: Tensor | None = None,
        source: FrameLog | None = None,
    ) -> None:
        self.id = job.id
        self.job = job
        self.owner = owner  # the session that started the job, and may stop it
        self.address = ""  # where the owner's request came from, if that tells visitors apart
        self.name = name  # of the input file
        self.folder = folder  # of all files of this job
        self.frames = frames  # decoded so far
        self.num_frames = num_frames  # when all are decoded
        self.source = source  # a roundtrip's input
        self.size = frames.height, frames.width  # of a decoded frame, once the input's header is read
        self.wants_files = True  # whether files to download are made of what is decoded
        self.unread: UnreadInput | None = None  # the input, until it is read
        self.plan: InputPlan | None = None  # of an unread input, once its header is read
        self.is_reading = False  # whether the input is being read now
        self.refused = False  # whether the run failed because its input cannot be used
        self.needs = Needs(0, 0)  # what the budget granted
        self.fps = fps
        self.latent = latent  # raw [1 C T H W] on the CPU; a roundtrip fills it chunk by chunk
        self.status = Status.QUEUED
        self.message = "Waiting."  # what happens now or what went wrong, in a sentence for the user
        self.phase = job.phases[0]
        self.done = {phase: 0 for phase in job.phases}  # latent frames coded so far
        self.created = time.monotonic()
        self.created_at = time.time()  # the same moment in unix seconds
        self.started: float | None = None  # when all ranks began
        self.first_frame: float | None = None  # when the first frame was decoded
        self.finished: float | None = (
            None  # when the last frame was decoded, or when the job ended without it
        )
        self.encode_seconds: float | None = None
        self.decode_seconds: float | None = None
        self.num_ranks = 1  # that own a part of the picture
        self.activity: list[Activity] = []
        self.peak_bytes: list[int] = []  # memory, by rank
        self.video_path: Path | None = None  # of the MP4, once it is written
        self.latent_path: Path | None = None  # of a roundtrip's latent, once it is written
        self.sound: Sound | None = None  # of a roundtrip's source
        self.input_path: Path | None = None  # of the raw latent that was decoded, once the run has ended
        self.exports: dict[str, Export] = {}  # files that were asked for, by format; `Exports` changes it
        self.published: Path | None = None  # folder with links to these files, which programs fetch
        self.path_warning = (
            ""  # why the run did not take the VAE's own path, in a sentence without a full stop
        )
        self.decoder_warning = ""  # what is odd about the decoded numbers, in a sentence without a full stop
        self.stop_requested = False
        self.stop_reason = ""  # empty if the user asked for it
        self.is_pinned = (
            False  # whether it is kept though it has ended and nobody watches: it is being archived
        )
        self.last_seen = time.monotonic()  # when a page last asked for this run
        self.after = ""  # id of a run that starts first, if both wait
        self.num_runs_before = 0  # in the queue; see `queue_place`
        self.on_stop: Callable[[JobState], None] | None = None  # `stop` calls it
        self.on_end: Callable[[], None] | None = None  # called when the job has ended
        self._version = 0  # counts calls of `change`
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status.ended

    @property
    def warning(self) -> str:
        """What is odd about the run, in sentences without the last full stop; "" if nothing is."""
        return ". ".join(filter(None, (self.path_warning, self.decoder_warning, self.frames.warning)))

    @property
    def is_read(self) -> bool:
        """Whether the input is there, so that the run can start."""
        return self.unread is None

    @property
    def is_needed(self) -> bool:
        """Whether a file is being made of its frames: the run must not go meanwhile, though it has ended."""
        return self.job.bit_depth == 16 or any(not e.status.ended for e in list(self.exports.values()))

    def queue_place(self) -> int:
        """Return how many runs must end before this one starts; 0 unless it is queued."""
        return self.num_runs_before if self.status == Status.QUEUED else 0

    def stop(self, reason: str = "") -> None:
        """Ask for the end: a queued run ends at once, a running one before its next chunk.

        `reason` goes into the message; it is empty if the user asked.
        """
        self.stop_requested, self.stop_reason = True, reason
        if self.on_stop is not None:
            self.on_stop(self)
        self.change()

    def seen(self) -> None:
        """Note that a page asked for this run: a run that is watched is neither stopped nor deleted."""
        self.last_seen = time.monotonic()

    def change(self, **values: Any) -> None:
        """Set these attributes and wake all threads in `wait`."""
        with self._changed:
            for name, value in values.items():
                assert hasattr(self, name), name
                setattr(self, name, value)
            self._version += 1
            self._changed.notify_all()

    def wait(self, timeout: float | None = None, version: int | None = None) -> int:
        """Block until `change` is called, for `timeout` seconds at most; return the present version.

        With the `version` that an earlier call returned, a change since that call counts as well.
        """
        with self._changed:
            since = self._version if version is None else version
            self._changed.wait_for(lambda: self._version != since, timeout)
            return self._version

    def summary(self) -> str:
        """Describe the job and how it ended, in one line for the log."""
        if not self.is_read:
            return f"{self.job.kind}, not started: {self.status}: {self.message}"
        c, t, h, w = self.job.shape
        seconds = self.finished - self.started if self.finished and self.started else 0.0
        rate = f", {len(self.frames) / seconds:.1f} fps" if seconds else ""
        who, frames = plural(self.num_ranks, "rank"), plural(self.num_frames, "frame")
        what = f"{self.job.kind} of {c}x{t}x{h}x{w} to {len(self.frames)} of {frames}"
        size = "{1}x{0}".format(*self.size)
        outcome = self.status if self.status == Status.FINISHED else f"{self.status}: {self.message}"
        return f"{what} {size}, {who}, chunk {self.job.chunk}, {seconds:.2f} s{rate}: {outcome}"

    def close(self) -> None:
        """Free the frames. The folder stays: `ResultStore.discard` deletes it."""
        self.frames.close()
        if self.source is not None:
            self.source.close()
