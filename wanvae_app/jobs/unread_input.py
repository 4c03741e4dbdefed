"""UnreadInput: what a run's input is before it is read, and what reading makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from wanvae_app.formats.sound import Sound
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.latent_shape import LatentShape


class InputPlan(NamedTuple):
    """What an input's header says. Where the header leaves the number of frames open, this is the largest possible."""

    shape: LatentShape  # of the latent that is decoded
    source_bytes: int  # of disk that a video's own frames take
    memory_bytes: int  # that the run holds until its end
    reading_bytes: int  # of memory that reading takes besides


class ReadInput(NamedTuple):
    """An input that was read: one of `latent` and `source`."""

    latent: Tensor | None  # raw [1 C T H W]
    source: FrameLog | None  # a video's frames
    fps: float
    sound: Sound | None = None  # of the video's frames


class UnreadInput(Protocol):
    """An input that lies in a file. A reader's thread calls `plan`, then `read`.

    Both raise ValueError or OSError, in one sentence, for an input that cannot be used.
    """

    @property
    def name(self) -> str:
        """The file's name, for sentences."""

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        """Read the header, in bounded time. Soon after `stopped()` has become true, any exception may be raised."""

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        """Read all of it; frames go into a file of `folder`, or stay in memory if it is None.

        `on_progress` gets sentences for the user. Soon after `stopped()` has become true, raise any exception.
        """
