"""Frames of 16 bits, on their way from the ranks to a file.

They travel and lie where frames of 8 bits do, as bytes: a frame [H, W, C] of uint16 is one of uint8 [H, 2 W, C].
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from wanvae_app.formats.frame_writer import frame_batches
from wanvae_app.frame_log import FrameLog


def as_bytes(pixels: Tensor) -> Tensor:
    """Return uint16 pixels [T, H, W, C] as their bytes: uint8 [T, H, 2 W, C]."""
    num_frames, height, width, num_channels = pixels.shape
    return pixels.view(torch.uint8).view(num_frames, height, 2 * width, num_channels)


def deep_frame_batches(log: FrameLog) -> Iterator[np.ndarray]:
    """Yield the frames of a log of bytes as uint16 [n, H, W, C], a few at a time.

    Raises ValueError if the log is closed meanwhile.
    """
    for batch in frame_batches(log):
        num_frames, height, double_width, num_channels = batch.shape
        yield batch.reshape(-1).view(np.uint16).reshape(num_frames, height, double_width // 2, num_channels)
