"""Which files all ranks code together, and which a rank codes alone while the others code others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Of N ranks on one clip, against N ranks on N clips: docs/commandline.md has the measurements.
EFFICIENCY = 0.9
MAX_TOGETHER = 3  # clips per rank that are tried as those coded together


class Shares(NamedTuple):
    """Indices of files."""

    together: list[int]  # coded one after the other, by all ranks
    alone: list[list[int]]  # by rank


def share_out(sizes: Sequence[int], num_ranks: int, *, each: bool = False, together: bool = False) -> Shares:
    """Choose how files of these sizes, in bytes, are coded soonest; `each` and `together` choose one way for all.

    N ranks on N clips of one size lose nothing to the exchange of rows, so whole rounds are coded so. What is left over
    would keep few ranks busy: the largest clips, as many as shorten the whole, are coded by all ranks together.
    """
    largest_first = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    if num_ranks == 1 or together:
        return Shares(list(range(len(sizes))), [[] for _ in range(num_ranks)])
    counts = [0] if each else [*range(min(len(sizes), MAX_TOGETHER * num_ranks) + 1), len(sizes)]

    def seconds(count: int) -> float:
        """The time that it takes, in units of one byte on one rank, with the `count` largest clips together."""
        loads = [sum(sizes[i] for i in share) for share in _deal(largest_first[count:], sizes, num_ranks)]
        return sum(sizes[i] for i in largest_first[:count]) / (EFFICIENCY * num_ranks) + max(loads)

    count = min(counts, key=seconds)
    return Shares(sorted(largest_first[:count]), _deal(largest_first[count:], sizes, num_ranks))


def _deal(indices: Sequence[int], sizes: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Give each file, the largest first, to the rank that has least to do."""
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for index in indices:
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += max(1, sizes[index])
    return shares
