"""How the kernels in CUDA C++ divide their work among the chip's multiprocessors, in rounds.

- A region is 8 x 16 pixels, in all frames that a block computes together.
- A block is CUDA's; it computes `width` channels of a region. A multiprocessor holds one block.
- A cluster is two blocks on two multiprocessors.
- A tile is what a cluster computes at a time: the same channels of two regions. Where the blocks are `joined`, because
  a norm needs all channels of a pixel, it is two blocks of channels of one region.

A launch starts at most as many clusters as the chip holds. Each computes one tile after another: a round is one tile of
every cluster.

Costs were measured on an H100. A kernel's table `costs` says how long a round in blocks of each width takes, relative
to the width whose cost is 1. A round of that width takes roughly `work` times 0.1 us. `work` is proportional to what it
multiplies: for instance channels in, times frames that are computed together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from wanvae_app.kernels.tiles import H100_MULTIPROCESSORS, count_multiprocessors

H100_CLUSTERS = H100_MULTIPROCESSORS // 2
LAUNCH_COST = 40  # time of one more launch, in `work`'s unit of 0.1 us


class Launch(NamedTuple):
    """The tiles that one launch of a kernel computes, in blocks of one width."""

    width: int  # channels of a block
    num_blocks: int  # blocks that hold all channels of a region
    joined: bool  # whether a tile is two blocks of one region, not one block of two regions
    begin: int  # index of the first tile
    end: int  # index behind the last tile
    dependent: bool = False  # whether it starts before the launch ahead of it is done


def choose_width(
    n: int, costs: Mapping[int, float], num_regions: int | None = None, num_clusters: int = H100_CLUSTERS
) -> int:
    """Return the width of the blocks that compute n channels in the least time.

    Without `num_regions` there are so many regions that the last round does not matter.
    """

    def cost(width: int) -> float:
        num_blocks = -(-n // width)
        if num_regions is None:
            return costs[width] * num_blocks
        num_tiles = -(-num_regions // 2) * num_blocks
        return costs[width] * -(-num_tiles // num_clusters)

    return min(costs, key=cost)


def plan_launches(
    n: int,
    width: int,
    num_regions: int,
    work: int,
    costs: Mapping[int, float],
    num_clusters: int,
    norm: bool = False,
) -> list[Launch]:
    """Return the one or two launches that compute n channels of `num_regions` regions in blocks of `width` channels.

    The first one takes all whole rounds. The tiles of a last round that leaves clusters idle go to more clusters in
    narrower blocks, by a dependent launch, where this saves more time than the launch costs. With `norm` a cluster
    must hold all channels of its regions.
    """
    num_blocks = -(-n // width)
    joined = norm and num_blocks > 1
    num_tiles = num_regions if joined else -(-num_regions // 2) * num_blocks
    all_tiles = Launch(width, num_blocks, joined, 0, num_tiles)
    num_left = num_tiles % num_clusters
    if joined or not num_left or num_tiles < num_clusters or n % width:
        return [all_tiles]
    begin, found, least_cost = num_tiles - num_left, None, costs[width] - LAUNCH_COST / work
    for narrow, cost in costs.items():
        if norm and narrow < width <= n <= 2 * narrow:  # two joined blocks hold all channels
            rest = Launch(narrow, 2, True, 2 * begin, num_regions, True)
        elif not norm and narrow < width and width % narrow == 0:
            ratio = width // narrow
            rest = Launch(narrow, num_blocks * ratio, False, begin * ratio, num_tiles * ratio, True)
        else:
            continue
        cost *= -(-(rest.end - rest.begin) // num_clusters)
        if cost < least_cost:
            found, least_cost = rest, cost
    return [all_tiles] if found is None else [all_tiles._replace(end=begin), found]


def count_clusters(device: torch.device) -> int:
    """Return the number of clusters that the device holds at a time; an H100's where there is no GPU."""
    return count_multiprocessors(device) // 2
