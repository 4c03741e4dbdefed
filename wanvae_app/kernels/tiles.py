"""Which tile a program of the convolution kernel computes, by shape.

Measured on an H100; it changes how fast a result comes, never what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch

# What another launch costs, in `parts`' measure of work (4 us on an H100).
LAUNCH = 40


class Tile(NamedTuple):
    """What one program of the convolution computes, and with what means."""

    frames: int  # of the same place
    pixels: int
    channels: int
    more: int  # a second part of the channels, or 1 for none: tiles are powers of two
    depth: int  # channels in per step
    warps: int
    stages: int
    registers: int | None = None


def choose_tile(
    c: int, n: int, num_frames: int, num_pixels: int, residual: bool, processors: int = 132
) -> Tile:
    """The tile for c channels in and n out, of so many frames of so many pixels, on so many multiprocessors."""
    depth = 64 if c % 64 == 0 else 32 if c > 16 else 16
    if n <= 96:
        first = 16 if n <= 16 else 32 if n <= 32 else 64
        second = 1 if n <= first else 16 if n - first <= 16 else 32
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
        return Tile(1, 128, 256, 1, depth, 8, 3)
    if num_frames * num_pixels * n < 4 * 132 * 256 * 128:  # too few large tiles to fill the chip evenly
        if num_frames * -(-num_pixels // 64) * -(-n // 192) <= 2 * processors:
            return Tile(1, 64, 128, 64, depth, 4, 3)  # two of these share a multiprocessor
        # Every multiprocessor takes one tile after another: what counts is how many channels they are in the end.
        tiles = num_frames * -(-num_pixels // 128)
        rounds = {width: -(-tiles * -(-n // width) // processors) for width in (128, 192)}
        wide = 192 * rounds[192] <= 128 * rounds[128]
        return Tile(1, 128, 128, 64 if wide else 1, depth, 4 if wide else 8, 4)
    return Tile(1, 256, 128, 1, depth, 8, 4)


@lru_cache
def processors_of(device: torch.device) -> int:
    """How many multiprocessors the device has; a Hopper GPU's, where there is none."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def split(n: int, costs: Mapping[int, float], places: int = 0, processors: int = 132) -> tuple[int, int]:
    """Channels of a block and how many blocks take n: those that are done first at so many places of 8 x 16 pixels, or
    where there are many. `costs` says what a block of so many channels takes; two blocks that take the same channels of
    two places are a cluster, and each takes one of its multiprocessors."""
    pairs = -(-places // 2)

    def cost(width: int) -> float:
        blocks = -(-n // width)
        return costs[width] * (-(-pairs * blocks // (processors // 2)) if places else blocks)

    width = min(costs, key=cost)
    return width, -(-n // width)


class LaunchPart(NamedTuple):
    """What one launch of a kernel takes whose clusters, of two blocks each, take one tile after another."""

    width: int  # channels of a block
    blocks: int  # so many take all channels
    joined: bool  # a cluster is two blocks of channels at one place; else those of the same channels at two places
    begin: int  # of the tiles of so many clusters this is the first
    end: int  # and those before this one are taken
    dependent: bool = False  # started while the one before it is not done


def parts(
    n: int, width: int, places: int, work: int, costs: Mapping[int, float], clusters: int, norm: bool = False
) -> list[LaunchPart]:
    """How so many places of n channels are taken in blocks so wide: in whole rounds, and in narrower blocks what would
    leave most clusters idle in the last one, where that saves more than another launch takes.

    `work` is in proportion to what a round takes: channels in times frames that are made together. `costs` are those
    of `split`. A norm needs all channels of its places in a cluster.
    """
    blocks = -(-n // width)
    joined = norm and blocks > 1
    count = places if joined else -(-places // 2) * blocks
    whole = LaunchPart(width, blocks, joined, 0, count)
    rest = count % clusters
    if joined or not rest or count < clusters or n % width:
        return [whole]
    begin, found, least = count - rest, None, costs[width] - LAUNCH / work
    for narrow, cost in costs.items():
        if norm and narrow < width <= n <= 2 * narrow:  # the norm's two blocks are the cluster
            left = LaunchPart(narrow, 2, True, 2 * begin, places, True)
        elif not norm and narrow < width and width % narrow == 0:
            pieces = width // narrow
            left = LaunchPart(narrow, blocks * pieces, False, begin * pieces, count * pieces, True)
        else:
            continue
        cost *= -(-(left.end - left.begin) // clusters)
        if cost < least:
            found, least = left, cost
    return [whole] if found is None else [whole._replace(end=begin), found]


def fits_one_tile(n: int) -> bool:
    """Whether a program can hold all n channels of its pixels, so that their norm can be taken in place."""
    return n <= 192 or n == 256
