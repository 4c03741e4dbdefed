"""PeerMemory: the memory of the other ranks' GPUs, where one machine's GPUs reach each other's over NVLink or PCIe.

A halo row goes straight into a mailbox in the neighbour's memory. One launch of a kernel sends this rank's rows, waits
for the neighbours' rows and takes them: there is no message and no copy, and the host takes no part. On CPUs and
between machines the same rows travel as messages.

This module needs Triton; `peer_access.py` decides whether peer memory is used.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from torch.distributed import _symmetric_memory as symmetric
from torch.distributed import group as groups

from wanvae_app.config import WanConfig
from wanvae_app.kernels import mailbox
from wanvae_app.kernels.halo import halo_kernel, token_kernel
from wanvae_app.kernels.launch import launch, warm_up
from wanvae_app.kernels.mailbox import PROGRAMS, UNIT, EarlyHalo, Mailbox, Neighbours
from wanvae_app.parallel.edge_layout import NOTHING, EdgeLayout, four_rows_layout, padded_frames_layout

BLOCK = 1024  # units that a program of a kernel moves at a time


class PeerMemory:
    """One rank's access to the memory of all ranks' GPUs. All ranks make it, use it and reset it together.

    Exchanges are numbered, from 0 in every clip. Those of even and of odd number have mailboxes of their own, because a
    neighbour may begin the next exchange while this rank still takes the rows of the last one. Methods take the number
    of their first exchange as `sequence`, and as `size` how many ranks, counted from rank 0, share the picture.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, holds_on_all_ranks: Callable[[bool], bool]
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.timed = True  # kernels note how long they wait; Triton's interpreter has no clock
        self._holds_on_all_ranks = holds_on_all_ranks
        self._memory = self._allocate(mailbox.num_words(size)).zero_()
        torch.cuda.synchronize(device)  # before another rank can write there
        handle = self._open(self._memory)
        self._mailboxes = [Mailbox(handle, rank, size, parity) for parity in (0, 1)]
        # Addresses, by rank: the flags that tell of tokens.
        self._token_flags = torch.tensor(
            [mailbox.token_flags(handle, of, size) for of in range(size)], device=device
        )
        # This rank's memory for all ranks' tokens, int64, and the addresses of every rank's.
        self._tokens: tuple[Tensor, Tensor] | None = None
        self._first_frame = torch.zeros(1, dtype=torch.int32, device=device)  # a table of slots: frame 0
        self._no_rows = torch.zeros(2, UNIT // 8, dtype=torch.int64, device=device)
        self._abort = torch.zeros(1, dtype=torch.int32, pin_memory=True)  # 1: kernels must not wait any more
        self._waited = torch.zeros(2, dtype=torch.int64, device=device)  # ns, for the ranks before and after
        self._finished = torch.zeros(2, dtype=torch.int32, device=device)  # see `EarlyHalo`

    def early_halo(self, columns: bool, size: int) -> EarlyHalo:
        """Return what a kernel needs whose boundary is to leave before the kernel is done."""
        return EarlyHalo(columns, self.rank > 0, self.rank < size - 1, self._finished)

    def neighbours(self, columns: bool, sequence: int, size: int) -> Neighbours:
        """Return what a kernel needs that makes the exchange `sequence` itself."""
        arguments = {
            **self._mailboxes[sequence % 2].pointers,
            "abort": self._abort,
            "waited": self._waited,
            "BEFORE": self.rank > 0,
            "AFTER": self.rank < size - 1,
            "TIMED": self.timed,
        }
        return Neighbours(columns, PROGRAMS, arguments)

    def fill_halo(
        self,
        frames: Tensor,
        slots: Tensor,
        columns: bool,
        sequence: int,
        size: int,
        early_halo: EarlyHalo | None = None,
    ) -> int:
        """Write the neighbours' edge rows, or columns, into the border of padded frames [slots, H + 2, W + 2, C].

        Returns the number of the next exchange. `early_halo` is what the kernel got that was started last.
        """
        layout = padded_frames_layout(frames, columns)
        num_units = len(slots) * layout.row_units
        return self._exchange(frames, slots, layout, num_units, sequence, size, early_halo)

    def exchange_rows(
        self, first: Tensor, final: Tensor, sequence: int, size: int
    ) -> tuple[Tensor, Tensor, int]:
        """Send `first` to the rank before and `final` to the rank after.

        Returns what they sent, in the shapes of `final` and `first`, and the number of the next exchange. Zeros stand
        for the rows of a rank that does not exist.
        """
        length = max(first.numel(), final.numel())
        rows = first.new_zeros(4, length)  # first, final, and what the ranks before and after send
        rows[0, : first.numel()] = first.flatten()
        rows[1, : final.numel()] = final.flatten()
        layout = four_rows_layout(length * first.element_size() // UNIT)
        sequence = self._exchange(rows, self._first_frame, layout, layout.row_units, sequence, size)
        above, below = rows[2, : final.numel()], rows[3, : first.numel()]
        return above.view(final.shape), below.view(first.shape), sequence

    def exchange_nothing(self, sequence: int, size: int) -> int:
        """Make an exchange that carries no rows. Returns the number of the next one."""
        return self._exchange(self._no_rows, self._first_frame, NOTHING, 1, sequence, size)

    def reserve_tokens(self, config: WanConfig, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        """Reserve memory for the tokens of one chunk, whose whole latent has the shape T, H, W. All ranks call this.

        Where any rank has no memory left, tokens travel as messages.
        """
        num_tokens, channels = math.prod(shape), max(config.encoder_dims[-1], config.decoder_dims[0])
        num_words = num_tokens * channels * dtype.itemsize // 8
        if self._tokens is not None and self._tokens[0].numel() >= num_words:
            return
        self._tokens, memory = None, None
        with contextlib.suppress(torch.OutOfMemoryError):
            memory = self._allocate(num_words)
        if not self._holds_on_all_ranks(memory is not None):
            return
        assert memory is not None
        handle = self._open(memory)
        addresses = [handle.get_buffer(r, (num_words,), torch.int64).data_ptr() for r in range(self.size)]
        self._tokens = memory, torch.tensor(addresses, device=self.device)

    def compile_token_kernel(self) -> None:
        """Compile the kernel of `all_gather_tokens`."""
        warm_up(
            token_kernel, (1, self.size),
            self._no_rows, self._token_flags, self._token_flags, self._abort, self._waited, 1, 1, 1, 0, self.rank,
            self.size, BLOCK=BLOCK, STRIDE=PROGRAMS, TIMED=self.timed, num_warps=8,
        )  # fmt: skip

    def has_room_for_tokens(self, num_bytes: int) -> bool:
        """Whether so many bytes of all ranks' tokens fit into the reserved memory; the same on all ranks."""
        return self._tokens is not None and num_bytes <= self._tokens[0].nbytes

    def all_gather_tokens(self, x: Tensor, start: int, total: int, size: int) -> Tensor:
        """Return all ranks' tokens [N, total, C], of which x [N, tokens, C] are this rank's, from `start` on.

        The next call overwrites the result.
        """
        assert self._tokens is not None
        num_frames, num_tokens, channels = x.shape
        token_bytes = channels * x.element_size()
        memory, addresses = self._tokens
        num_units, total_units = num_tokens * token_bytes // UNIT, total * token_bytes // UNIT
        # Every program waits for the same program on the other ranks, so all ranks start as many.
        launch(
            token_kernel, (min(PROGRAMS, triton.cdiv(total_units, BLOCK)), size),
            x.view(torch.int64), addresses, self._token_flags, self._abort, self._waited,
            num_frames, num_units, total_units, start * token_bytes // UNIT, self.rank, size,
            BLOCK=BLOCK, STRIDE=PROGRAMS, TIMED=self.timed, num_warps=8,
        )  # fmt: skip
        return memory.view(x.dtype)[: num_frames * total * channels].view(num_frames, total, channels)

    def request_seconds_waited(self) -> Callable[[], float]:
        """Queue a reading of the seconds that this rank has waited in exchanges; call the result once it is done."""
        waited = torch.empty(2, dtype=torch.int64, pin_memory=True)
        waited.copy_(self._waited, non_blocking=True)
        return lambda: int(waited.max()) / 1e9

    def abort(self) -> None:
        """Let this rank's kernels wait no more, from any thread. What they receive from now on is undefined."""
        self._abort[0] = 1

    def reset(self) -> None:
        """Make ready for exchanges again after an abort. All ranks call this."""
        torch.cuda.synchronize(self.device)
        self._holds_on_all_ranks(True)  # a barrier: from here on no device writes into another's memory
        self._memory.zero_()
        self._finished.zero_()
        torch.cuda.synchronize(self.device)
        self._abort[0] = 0
        self._holds_on_all_ranks(True)

    def _exchange(
        self,
        frames: Tensor,
        slots: Tensor,
        layout: EdgeLayout,
        num_units: int,
        sequence: int,
        size: int,
        early_halo: EarlyHalo | None = None,
    ) -> int:
        """Exchange `num_units` of rows with each neighbour, in as many exchanges as mailboxes are too small for it."""
        for begin in range(0, num_units, mailbox.CAPACITY):
            end = min(num_units, begin + mailbox.CAPACITY)
            expected = early_halo.expected if early_halo is not None and begin == 0 else 0
            launch(
                halo_kernel, (min(PROGRAMS, triton.cdiv(end - begin, BLOCK)), 2),
                frames.view(torch.int64), slots, **vars(layout), begin=begin, end=end, finished=self._finished,
                expected=expected, EARLY=expected > 0, **self.neighbours(False, sequence, size).arguments,
                BLOCK=BLOCK, num_warps=8, **({"launch_pdl": True} if expected else {}),
            )  # fmt: skip
            sequence += 1
        return sequence

    def _allocate(self, num_words: int) -> Tensor:
        """Allocate words of 8 bytes that other ranks can open."""
        os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")  # not used here
        with torch.inference_mode(False):
            return symmetric.empty(num_words, dtype=torch.int64, device=self.device)

    def _open(self, memory: Tensor) -> Any:
        """Open all ranks' `memory` to each other; return the handle that knows the addresses."""
        assert groups.WORLD is not None
        return symmetric.rendezvous(memory, groups.WORLD.group_name)
