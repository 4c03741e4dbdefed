"""Which tile a program of the direct convolution computes, by shape.

The choices were measured on an H100. They change how long a result takes, not what it means.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

H100_MULTIPROCESSORS = 132


class Tile(NamedTuple):
    """What one program of `direct_conv.conv_kernel` computes, and with what means.

    Channels out are divided in two, because Triton's tiles are powers of two: 96 are 64 and 32.
    """

    frames: int  # frames whose results it computes, at the same pixels: 1, 2 or 4
    pixels: int  # pixels of each frame
    first_channels: int  # channels out of the first part
    second_channels: int  # channels out of the second part; 0 for none
    depth: int  # channels in per step
    warps: int
    stages: int  # steps whose inputs are fetched ahead
    max_registers: int | None = None  # of a thread; None leaves it to the compiler

    @property
    def channels(self) -> int:
        """Channels out of both parts."""
        return self.first_channels + self.second_channels


def choose_tile(
    c: int,
    n: int,
    num_frames: int,
    num_pixels: int,
    residual: bool,
    num_multiprocessors: int = H100_MULTIPROCESSORS,
) -> Tile:
    """Return the tile for c channels in and n channels out of `num_frames` frames.

    `num_pixels` counts the pixels of a frame that programs compute. `residual` says whether a residual is added.
    """
    depth = 64 if c % 64 == 0 else 32 if c > 16 else 16
    if n <= 96:
        first = 16 if n <= 16 else 32 if n <= 32 else 64
        second = 0 if n <= first else 16 if n - first <= 16 else 32
        if depth == 64:
            return Tile(1, 128, first, second, 64, 4, 4)
        if residual and num_frames % 2 == 0:
            return Tile(2, 128, first, second, depth, 4, 2)
        return Tile(1, 256, first, second, depth, 8, 5, 128)
    if n == 192:
        return Tile(1, 128, 128, 64, depth, 8 if residual else 4, 4)
    if n % 160 == 0 and n < 640:
        return Tile(1, 128, 128, 32, depth, 4, 5 if depth == 32 else 4)
    if n % 256 == 0:
        return Tile(1, 128, 256, 0, depth, 8, 3)
    if num_frames * num_pixels * n < 4 * H100_MULTIPROCESSORS * 256 * 128:  # under four rounds of large tiles
        if num_frames * -(-num_pixels // 64) * -(-n // 192) <= 2 * num_multiprocessors:
            return Tile(1, 64, 128, 64, depth, 4, 3)  # two of these share a multiprocessor
        # Each multiprocessor computes one tile after another: the time is that of all its channels together.
        tiles = num_frames * -(-num_pixels // 128)
        rounds = {width: -(-tiles * -(-n // width) // num_multiprocessors) for width in (128, 192)}
        wide = 192 * rounds[192] <= 128 * rounds[128]
        return Tile(1, 128, 128, 64 if wide else 0, depth, 4 if wide else 8, 4)
    return Tile(1, 256, 128, 0, depth, 8, 4)


def fits_one_tile(n: int) -> bool:
    """Return whether one program holds all n channels of its pixels, so that it can take their norm itself."""
    return n <= 192 or n == 256


@lru_cache
def count_multiprocessors(device: torch.device) -> int:
    """Return the number of the device's multiprocessors; an H100's where there is no GPU."""
    if device.type != "cuda":
        return H100_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
