"""Link: the other ranks' memory, where one machine's GPUs can reach each other's over NVLink or PCIe.

A halo row goes straight into a place that the neighbour has set aside for it, in one launch of a kernel that also
waits for the neighbour's row: no message, no copy, and the host does not take part. Where there is no link, on CPUs
and between machines, the same rows travel as messages.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import group as groups

from wanvae_app.config import WanConfig
from wanvae_app.kernels import mailbox as places
from wanvae_app.kernels.mailbox import PROGRAMS, UNIT, EarlyHalo, Mailbox, Neighbours

try:
    import triton
    from torch.distributed import _symmetric_memory as symmetric

    from wanvae_app.kernels.halo import halo_kernel, token_kernel
except ImportError:  # a build of PyTorch without Triton, or an old one
    triton = None

log = logging.getLogger(__name__)

Agree = Callable[[Sequence[float]], list[list[float]]]  # `Group.agree`: everybody's report, by rank

BLOCK = 1024  # units that a program moves at a time
FIRST_EXCHANGE_TIMEOUT = 30.0  # seconds for the first exchange, for which kernels are compiled
MAX_RANKS = 16  # a rank cannot be ahead of another by more exchanges than lie between two of `gather`


class PeerMemory:
    """One rank's access to the memory of all others. All ranks make it, use it and reset it together.

    Exchanges are numbered, from 0 with every clip; those of even and of odd number have places of their own, since
    a neighbour may begin the next while this rank takes what came with the last.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size = rank, size
        self.timed = True  # the kernels note how long they wait; only Triton's interpreter has no clock
        self._device = device
        self._memory = self._allocate(places.num_words(size)).zero_()
        torch.cuda.synchronize(device)  # before anybody can write there
        handle = self._open(self._memory)
        self._places = [Mailbox(handle, rank, size, sequence) for sequence in (0, 1)]
        self._token_flags = torch.tensor(
            [places.token_flags(handle, of, size) for of in range(size)], device=device
        )
        self._tokens: tuple[Tensor, Tensor] | None = None  # this rank's, and where everyone's lie
        self._table = torch.zeros(1, dtype=torch.int32, device=self._device)
        self._nothing = torch.zeros(2, UNIT // 8, dtype=torch.int64, device=self._device)
        self._abort = torch.zeros(1, dtype=torch.int32, pin_memory=True)
        self._waited = torch.zeros(2, dtype=torch.int64, device=self._device)
        self._finished = torch.zeros(2, dtype=torch.int32, device=self._device)

    @classmethod
    def connect(cls, rank: int, size: int, device: torch.device, agree: Agree) -> PeerMemory | None:
        """The link among all ranks, or None if any of them cannot reach another's memory."""
        if device.type != "cuda":
            return None
        one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", size)) == size
        others = [peer for peer in range(size) if peer != device.index] if one_machine else []
        able = triton is not None and torch.version.cuda is not None and one_machine and size <= MAX_RANKS
        able = able and torch.cuda.get_device_capability(device) >= (7, 0)
        if not _all(agree, able and all(torch.cuda.can_device_access_peer(device.index, p) for p in others)):
            return None
        peer_memory, reason = None, "what one GPU writes into another's memory does not arrive"
        try:
            peer_memory = cls(rank, size, device)
            peer_memory = peer_memory if peer_memory.delivers() else None
        except Exception as error:  # whatever the driver or the compiler says: there is another way
            peer_memory, reason = None, str(error)
        if not _all(agree, peer_memory is not None):
            log.warning("rank %d: rows travel as messages, not from memory to memory: %s", rank, reason)
            return None
        return peer_memory

    def early_halo(self, columns: bool, size: int) -> EarlyHalo:
        """What a kernel is told whose edges are to travel among the first `size` ranks before it is done."""
        return EarlyHalo(columns, self.rank > 0, self.rank < size - 1, self._finished)

    def fill_borders(
        self,
        frames: Tensor,
        slots: Tensor,
        columns: bool,
        sequence: int,
        size: int,
        early_halo: EarlyHalo | None = None,
    ) -> int:
        """Put the edge rows, or columns, of the neighbours among the first `size` ranks into the border of padded
        frames [slots, H + 2, W + 2, C]. Takes the number of the exchange and returns that of the next. The kernel that
        was started last may be the one that went `early_halo`."""
        _, height, width, c = frames.shape
        c = c * frames.element_size() // UNIT
        line, length, run, count = (c, width, c, height) if columns else (width * c, height, width * c, 1)
        lines = {"first": line, "final": (length - 2) * line, "above": 0, "below": (length - 1) * line}
        pieces = {"frame": height * width * c, "step": width * c, "run": run, "count": count}
        return self._exchange(
            frames, slots, {**lines, **pieces}, len(slots) * run * count, sequence, size, early_halo
        )

    def neighbours(self, columns: bool, sequence: int, size: int) -> Neighbours:
        """What a kernel needs that takes this exchange among the first `size` ranks upon itself."""
        there = {"BEFORE": self.rank > 0, "AFTER": self.rank < size - 1, "TIMED": self.timed}
        arguments = {
            **self._places[sequence % 2].pointers, "abort": self._abort, "waited": self._waited, **there
        }  # fmt: skip
        return Neighbours(columns, PROGRAMS, arguments)

    def swap(self, first: Tensor, final: Tensor, sequence: int, size: int) -> tuple[Tensor, Tensor, int]:
        """Send `first` to the rank before and `final` to the rank behind; what they sent, in the shapes of `final` and
        `first`, zeros where there is no rank; and the number of the next exchange."""
        length = max(first.numel(), final.numel())
        rows = first.new_zeros(4, length)  # the two that go, and those that come
        rows[0, : first.numel()] = first.flatten()
        rows[1, : final.numel()] = final.flatten()
        units = length * first.element_size() // UNIT
        lines = {"first": 0, "final": units, "above": 2 * units, "below": 3 * units}
        pieces = {"frame": 0, "step": units, "run": units, "count": 1}
        sequence = self._exchange(rows, self._table, {**lines, **pieces}, units, sequence, size)
        return (
            rows[2, : final.numel()].view(final.shape),
            rows[3, : first.numel()].view(first.shape),
            sequence,
        )

    def rest(self, sequence: int, size: int) -> int:
        """An exchange of next to nothing; returns the number of the one after it."""
        layout = {"first": 0, "final": 0, "above": 1, "below": 1, "frame": 0, "step": 1, "run": 1, "count": 1}
        return self._exchange(self._nothing, self._table, layout, 1, sequence, size)

    def delivers(self) -> bool:
        """Whether what the neighbours send arrives, whole and in time: some boards say that it does, and lose it.
        On all ranks at once; compiles the kernels."""
        mine = torch.full((4096,), self.rank, dtype=torch.int64, device=self._device)
        above, below, _ = self.swap(mine, mine, 0, self.size)
        arrived = torch.cuda.Event()
        arrived.record()
        deadline = time.monotonic() + FIRST_EXCHANGE_TIMEOUT
        while not arrived.query() and time.monotonic() < deadline:
            time.sleep(0.001)
        if not arrived.query():
            self.abort()
            torch.cuda.synchronize(self._device)
            return False
        token_kernel.warmup(
            self._nothing, self._token_flags, self._token_flags, self._abort, self._waited, 1, 1, 1, 0, self.rank,
            self.size, BLOCK=BLOCK, STRIDE=PROGRAMS, TIMED=self.timed, num_warps=8, grid=(1, self.size),
        )  # fmt: skip
        from_before = self.rank == 0 or bool((above == self.rank - 1).all())
        return from_before and (self.rank == self.size - 1 or bool((below == self.rank + 1).all()))

    def reserve(
        self, agree: Agree, config: WanConfig, shape: tuple[int, int, int], dtype: torch.dtype
    ) -> None:
        """Set memory aside for the tokens of `shape` latents, T, H, W, at a time; on all ranks at once."""
        num_tokens, width = math.prod(shape), max(config.encoder_dims[-1], config.decoder_dims[0])
        num_words = num_tokens * width * dtype.itemsize // 8
        if self._tokens is not None and self._tokens[0].numel() >= num_words:
            return
        self._tokens, memory = None, None
        with contextlib.suppress(torch.OutOfMemoryError):  # then they go as messages
            memory = self._allocate(num_words)
        if not _all(agree, memory is not None):
            return
        assert memory is not None
        handle = self._open(memory)
        starts = [handle.get_buffer(r, (num_words,), torch.int64).data_ptr() for r in range(self.size)]
        self._tokens = memory, torch.tensor(starts, device=self._device)

    def has_room(self, num_bytes: int) -> bool:
        """Whether `gather` can be asked for so much; it is the same on all ranks."""
        return self._tokens is not None and num_bytes <= self._tokens[0].nbytes

    def gather(self, mine: Tensor, place: int, whole: int, size: int) -> Tensor:
        """Everyone's tokens [N, whole, C], of the first `size` ranks, from mine [N, tokens, C] that begin at `place`.

        It stays as it is until the next call.
        """
        assert self._tokens is not None
        num_frames, num_tokens, channels = mine.shape
        token = channels * mine.element_size()
        memory, starts = self._tokens
        units, all_units = num_tokens * token // UNIT, whole * token // UNIT
        # As many programs on every rank, though some may have fewer tokens: each waits for its twins.
        token_kernel[(min(PROGRAMS, triton.cdiv(all_units, BLOCK)), size)](
            mine.view(torch.int64), starts, self._token_flags, self._abort, self._waited,
            num_frames, units, all_units, place * token // UNIT, self.rank, size,
            BLOCK=BLOCK, STRIDE=PROGRAMS, TIMED=self.timed, num_warps=8,
        )  # fmt: skip
        return memory.view(mine.dtype)[: num_frames * whole * channels].view(num_frames, whole, channels)

    def note_wait(self) -> Callable[[], float]:
        """How many seconds this rank will have stood in exchanges when the device has come this far: ask then."""
        noted = torch.empty(2, dtype=torch.int64, pin_memory=True)
        noted.copy_(self._waited, non_blocking=True)
        return lambda: noted.max().item() / 1e9

    def abort(self) -> None:
        """Let go whoever waits, here; from any thread. What they receive from now on is worthless."""
        self._abort[0] = 1

    def reset(self, agree: Agree) -> None:
        """Make ready again after an abort; on all ranks at once."""
        torch.cuda.synchronize(self._device)
        agree([0.0])  # nobody's device writes into another's memory any more
        self._memory.zero_()
        self._finished.zero_()
        torch.cuda.synchronize(self._device)
        self._abort[0] = 0
        agree([0.0])

    def _exchange(
        self,
        frames: Tensor,
        table: Tensor,
        layout: dict[str, int],
        length: int,
        sequence: int,
        size: int,
        early_halo: EarlyHalo | None = None,
    ) -> int:
        for begin in range(0, length, places.CAPACITY):
            end = min(length, begin + places.CAPACITY)
            expected = early_halo.expected if early_halo is not None and begin == 0 else 0
            halo_kernel[(min(PROGRAMS, triton.cdiv(end - begin, BLOCK)), 2)](
                frames.view(torch.int64), table, **layout, begin=begin, end=end, finished=self._finished,
                expected=expected, EARLY=expected > 0, **self.neighbours(False, sequence, size).arguments,
                BLOCK=BLOCK, num_warps=8, **({"launch_pdl": True} if expected else {}),
            )  # fmt: skip
            sequence += 1
        return sequence

    def _allocate(self, num_words: int) -> Tensor:
        os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")  # nothing here uses it
        with torch.inference_mode(False):
            return symmetric.empty(num_words, dtype=torch.int64, device=self._device)

    def _open(self, memory: Tensor) -> Any:
        """Let all ranks write into each other's `memory`; the handle knows where it is."""
        assert groups.WORLD is not None
        return symmetric.rendezvous(memory, groups.WORLD.group_name)


def _all(agree: Agree, able: bool) -> bool:
    return all(theirs for (theirs,) in agree([float(able)]))
