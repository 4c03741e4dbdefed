"""Where messages to the ranks beside this one go, where theirs come from, and what kernels are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

UNIT = 16  # bytes: what messages are counted in
CAPACITY = 8 * 2**20 // UNIT  # units that travel one way in one exchange; a longer message takes several
PROGRAMS = 64  # at most so many of a kernel's send to one neighbour: so many flags there are


class Neighbours(NamedTuple):
    """What a kernel is told that swaps one message with each neighbour by itself."""

    columns: bool  # whether the picture is cut along these, or along its rows
    programs: int  # at most so many of its programs send to a neighbour
    arguments: dict[str, Any]  # of `halo_kernel`: places and flags; without any nobody is there


@dataclass
class EarlyHalo:
    """For a kernel that makes the edges before the rest, and tells of them: so they can travel meanwhile."""

    columns: bool  # whether the picture is cut along these, or along its rows
    before: bool  # whether there is a neighbour before this rank, and one behind
    after: bool
    finished: (
        Tensor  # int32 [2]: what it counts up once for each part of the edges, then what who waits counts
    )
    expected: int = 0  # how many parts there are; 0: it does not tell


class Mailbox:
    """Where the messages of every second exchange go, and where they come from: in the memory of `num_words` that all
    ranks have opened to each other, of which `handle` knows where it is."""

    def __init__(self, handle: Any, rank: int, size: int, sequence: int) -> None:
        def place(of: int, side: int) -> Tensor:
            start = (2 * sequence + side) * CAPACITY * 2
            return _memory(handle, of, size)[start : start + CAPACITY * 2]

        def flags(of: int, side: int) -> Tensor:
            start = (2 * sequence + side) * PROGRAMS
            return _flags(handle, of, size)[start : start + PROGRAMS]

        # What goes to the rank before comes, there, from the rank behind. At the picture's edge nobody looks at it.
        before, after = max(rank - 1, 0), min(rank + 1, size - 1)
        self.pointers = {
            "out_before": place(before, 1),
            "out_after": place(after, 0),
            "out_before_flags": flags(before, 1),
            "out_after_flags": flags(after, 0),
            "came_before": place(rank, 0),
            "came_after": place(rank, 1),
            "came_before_flags": flags(rank, 0),
            "came_after_flags": flags(rank, 1),
        }


def num_words(size: int) -> int:
    """Words of 8 bytes that each of so many ranks sets aside: for two messages a side, and flags."""
    return 4 * CAPACITY * 2 + (4 + size) * PROGRAMS // 2


def token_flags(handle: Any, rank: int, size: int) -> int:
    """Where a rank's flags for everyone's tokens begin, int32 [size, PROGRAMS]."""
    return _flags(handle, rank, size).data_ptr() + 16 * PROGRAMS


def _memory(handle: Any, rank: int, size: int) -> Tensor:
    return handle.get_buffer(rank, (num_words(size),), torch.int64)


def _flags(handle: Any, rank: int, size: int) -> Tensor:
    """The flags in a rank's memory, int32, behind the places of messages."""
    return _memory(handle, rank, size)[4 * CAPACITY * 2 :].view(torch.int32)
