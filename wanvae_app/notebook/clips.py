"""play: a clip as a video in a notebook's cell."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.formats.video import DEFAULT_FPS
from wanvae_app.frame_log import FrameLog
from wanvae_app.notebook.cell_output import CellOutput

FRAMES_AT_ONCE = 16  # that are copied from a GPU


def play(frames: Tensor | np.ndarray, fps: float = DEFAULT_FPS, width: int | None = None) -> None:
    """Show a clip, uint8 [T H W 3], as a video that repeats, `width` pixels wide on the page.

    The video lies in the notebook, as an MP4. Put clips side by side with `torch.cat([a, b], 2)`. Frames with alpha,
    [T H W 4], are shown over a checkerboard.

    Raises ValueError for another shape or type and for odd sides, OSError, with a sentence, if it cannot be written.
    """
    clip = torch.as_tensor(frames)
    if clip.dtype != torch.uint8 or clip.dim() != 4 or clip.shape[3] not in (3, 4) or not clip.numel():
        raise ValueError(
            f"A clip of {clip.dtype} and shape {list(clip.shape)} cannot be played: give uint8 [T, H, W, 3]."
        )
    num_frames, height, own_width, channels = clip.shape
    if height % 2 or own_width % 2:
        raise ValueError(f"A clip of {own_width}x{height} cannot be played: an MP4's sides are even.")
    with tempfile.TemporaryDirectory(prefix="wanvae-") as folder:
        path = Path(folder) / "clip.mp4"
        log = FrameLog(height, own_width, Path(folder), channels)
        try:
            for part in clip.split(FRAMES_AT_ONCE):
                log.append(part.cpu().numpy())
            write_mp4(log, path, fps)
        finally:
            log.close()
        data = base64.b64encode(path.read_bytes()).decode()
    CellOutput(
        f'<video src="data:video/mp4;base64,{data}" width="{width or own_width}" style="max-width:100%" '
        "controls autoplay loop muted playsinline></video>",
        f"a video of {num_frames} frames, {own_width}x{height}",
    )
