"""Pictures with alpha, as they are seen: over a checkerboard."""

from __future__ import annotations

import numpy as np

SQUARE = 8  # pixels along a square of the checkerboard
LIGHT, DARK = 255, 204  # its grey levels


def over_checkerboard(frames: np.ndarray) -> np.ndarray:
    """Return frames, uint8 [..., H, W, 4], as RGB [..., H, W, 3]: alpha * colour + (1 - alpha) * checkerboard.

    Colours are not multiplied by alpha already. Frames of three channels are returned as they are.
    """
    if frames.shape[-1] == 3:
        return frames
    height, width = frames.shape[-3:-1]
    squares = np.arange(height)[:, None] // SQUARE + np.arange(width) // SQUARE
    board = np.where(squares % 2, DARK, LIGHT).astype(np.uint16)[..., None]
    colour, alpha = frames[..., :3].astype(np.uint16), frames[..., 3:].astype(np.uint16)
    seen: np.ndarray = ((alpha * colour + (255 - alpha) * board + 127) // 255).astype(
        np.uint8
    )  # at most 65152
    return seen
