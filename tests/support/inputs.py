"""Inputs whose reading a test directs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from support.tiny import some_latent

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.jobs.unread_input import InputPlan, ReadInput

SIDE = 32  # pixels


class DirectedVideo:
    """A video of black frames that is read as soon as `allowed` is set: an UnreadInput.

    Its header claims to need `claimed` bytes of disk, and so many frames, which is an upper bound.
    """

    def __init__(self, name: str, claimed: int = 2**30, num_frames: int = 5) -> None:
        self.name = name
        self.claimed = claimed
        self.num_frames = num_frames
        self.allowed = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.folder: Path | None = None

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        return InputPlan(LatentShape(16, 3, SIDE // 8, SIDE // 8), self.claimed, 1000, 1000)

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        self.folder = folder
        on_progress(f"Reading 1 of about {self.num_frames} frames.")
        self.begun.set()
        try:
            while not self.allowed.wait(0.02):
                if stopped():
                    raise InterruptedError("stopped")
            log = FrameLog(SIDE, SIDE, folder)
            log.append(np.zeros((self.num_frames, SIDE, SIDE, 3), np.uint8))
            log.finish()
            return ReadInput(None, log, 12.0)
        finally:
            self.ended.set()


class ReadyLatent:
    """A small latent that is read at once: an UnreadInput."""

    def __init__(self, name: str) -> None:
        self.name = name

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        return InputPlan(LatentShape(16, 1, 4, 3), 0, 500, 500)

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        return ReadInput(some_latent(1), None, 16.0)
