"""Mailboxes in peer memory: where messages between neighbouring ranks lie, and what kernels are told of them.

All ranks open memory of one layout to each other:

- int64 words of 4 messages, of CAPACITY units each: from the rank before and from the rank behind, first for exchanges
  of even number, then for those of odd number
- int32 flags [4, PROGRAMS] of these messages: one for each program that sends
- int32 flags [size, PROGRAMS] of tokens, which every rank sends to every other

A sender writes a message into the receiver's memory, then raises its flags there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

UNIT = 16  # bytes; messages are counted in these
CAPACITY = 8 * 2**20 // UNIT  # units of one message; what is longer travels in several exchanges
PROGRAMS = 64  # programs of a kernel that send to one neighbour, at most; each has a flag


class Neighbours(NamedTuple):
    """What a kernel needs that exchanges one message with each neighbour itself."""

    columns: bool  # whether the picture is cut along its columns, not along its rows
    programs: int  # programs that send to one neighbour, at most
    arguments: dict[str, Any]  # who is there and where messages lie, as `halo_kernel` takes it; empty: nobody


@dataclass
class EarlyHalo:
    """What a kernel needs that makes the edges of the picture first, so that they travel while it makes the rest.

    It counts the parts of the edges that it has made; the exchange, already started, waits for `expected` of them.
    """

    columns: bool  # whether the picture is cut along its columns, not along its rows
    before: bool  # whether there is a rank before this one
    after: bool  # whether there is a rank behind this one
    finished: (
        Tensor  # int32 [2]: counts parts made, then programs of the exchange that saw all; zeros in between
    )
    expected: int = 0  # parts that the edges have, set by the kernel's launcher; 0 if it does not count them


class Mailbox:
    """The messages and flags of all exchanges of one parity, as `halo_kernel` takes them: this rank's and its peers'.

    `handle` is the memory that all ranks have opened to each other, `num_words` each. `parity` is 0 for exchanges of
    even number, 1 for those of odd number. At the picture's edge, where there is no peer, pointers lead to this rank's
    own memory and are not used.
    """

    def __init__(self, handle: Any, rank: int, size: int, parity: int) -> None:
        def message(of: int, side: int) -> Tensor:
            start = (2 * parity + side) * CAPACITY * 2
            return _memory(handle, of, size)[start : start + CAPACITY * 2]

        def flags(of: int, side: int) -> Tensor:
            start = (2 * parity + side) * PROGRAMS
            return _flags(handle, of, size)[start : start + PROGRAMS]

        # What goes to the rank before comes, there, from the rank behind (side 1).
        before, after = max(rank - 1, 0), min(rank + 1, size - 1)
        self.pointers = {
            "out_before": message(before, 1),
            "out_after": message(after, 0),
            "out_before_flags": flags(before, 1),
            "out_after_flags": flags(after, 0),
            "came_before": message(rank, 0),
            "came_after": message(rank, 1),
            "came_before_flags": flags(rank, 0),
            "came_after_flags": flags(rank, 1),
        }


def num_words(size: int) -> int:
    """Return the int64 words that each of `size` ranks sets aside: for four messages and all flags."""
    return 4 * CAPACITY * 2 + (4 + size) * PROGRAMS // 2


def token_flags(handle: Any, rank: int, size: int) -> int:
    """Return the address of a rank's flags for tokens, int32 [size, PROGRAMS]."""
    return _flags(handle, rank, size).data_ptr() + 16 * PROGRAMS


def _memory(handle: Any, rank: int, size: int) -> Tensor:
    return cast(Tensor, handle.get_buffer(rank, (num_words(size),), torch.int64))


def _flags(handle: Any, rank: int, size: int) -> Tensor:
    """Return all flags in a rank's memory, int32."""
    return _memory(handle, rank, size)[4 * CAPACITY * 2 :].view(torch.int32)
