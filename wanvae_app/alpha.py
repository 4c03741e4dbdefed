"""Pictures with alpha, as they are seen: over a checkerboard."""

from __future__ import annotations

import numpy as np

SQUARE = 8  # pixels along a square of the checkerboard
LIGHT, DARK = 255, 204  # its grey levels, of 255


def over_checkerboard(frames: np.ndarray) -> np.ndarray:
    """Return frames [..., H, W, 4], uint8 or uint16, as RGB: alpha * colour + (1 - alpha) * checkerboard.

    Colours are not multiplied by alpha already. Frames of three channels are returned as they are.
    """
    if frames.shape[-1] == 3:
        return frames
    assert frames.dtype in (np.uint8, np.uint16) and frames.shape[-1] == 4, (frames.dtype, frames.shape)
    height, width = frames.shape[-3:-1]
    opaque = np.iinfo(frames.dtype).max
    # The largest sum is opaque * opaque + opaque // 2, which fits into twice the bits.
    wide = np.uint16 if frames.dtype == np.uint8 else np.uint32
    squares = np.arange(height)[:, None] // SQUARE + np.arange(width) // SQUARE
    board = (np.where(squares % 2, DARK, LIGHT) * (opaque // 255)).astype(wide)[..., None]
    colour: np.ndarray = frames[..., :3].astype(wide)
    alpha: np.ndarray = frames[..., 3:].astype(wide)
    seen: np.ndarray = (alpha * colour + (opaque - alpha) * board + opaque // 2) // opaque
    return seen.astype(frames.dtype)
