"""Peer memory in one process: one side of an exchange, for which the neighbours' messages are there beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from wanvae_app.kernels import mailbox as places
from wanvae_app.kernels.mailbox import PROGRAMS, UNIT, Mailbox
from wanvae_app.parallel.peer_memory import BLOCK, PeerMemory

CPU = torch.device("cpu")


class Handle:
    """The memory of `size` ranks, with the method that `mailbox` calls."""

    def __init__(self, size: int, num_words: int, device: torch.device) -> None:
        self.memory = torch.zeros(size, num_words, dtype=torch.int64, device=device)

    def get_buffer(self, rank: int, sizes: tuple[int], dtype: torch.dtype) -> Tensor:
        return self.memory[rank]


class Alone(PeerMemory):
    """Rank `rank` of `size`, the only one that runs. A side is "before" or "after": the neighbour there."""

    def __init__(self, rank: int, size: int, device: torch.device = CPU) -> None:
        self.rank, self.size = rank, size
        self.timed = False
        self.handle = Handle(size, places.num_words(size), device)
        self._mailboxes = [Mailbox(self.handle, rank, size, sequence) for sequence in (0, 1)]
        self._first_frame = torch.zeros(1, dtype=torch.int32, device=device)
        self._no_rows = torch.zeros(2, 2, dtype=torch.int64, device=device)
        self._abort = torch.zeros(1, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._waited = torch.zeros(2, dtype=torch.int64, device=device)
        self._finished = torch.zeros(2, dtype=torch.int32, device=device)

    def hear(self, side: str, messages: list[Tensor]) -> None:
        """Put a neighbour's messages, int64 words, into the mailbox, one for each exchange, and raise all flags."""
        for sequence, words in enumerate(messages):
            pointers = self._mailboxes[sequence % 2].pointers
            pointers[f"came_{side}"][: words.numel()] = words.flatten()
            pointers[f"came_{side}_flags"][:] = 1

    def told(self, side: str, sequence: int, count: int, programs: int = 0) -> Tensor:
        """Return the `count` words that were sent to a neighbour in an exchange.

        Asserts that each of the `programs` that sent (0: as many as `halo_kernel` has) raised a flag there, lowered one
        here, and touched no other.
        """
        pointers = self._mailboxes[sequence].pointers
        raised = programs or (count * 8 // UNIT + BLOCK - 1) // BLOCK
        assert pointers[f"out_{side}_flags"].tolist() == [1] * raised + [0] * (PROGRAMS - raised)
        assert pointers[f"came_{side}_flags"].tolist() == [0] * raised + [1] * (PROGRAMS - raised)
        return pointers[f"out_{side}"][:count]
