"""Shard: one rank's slab of a picture, and what it exchanges with the ranks that own the others: halo rows, tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wanvae_app.channels_last import cat_channels_last
from wanvae_app.kernels.mailbox import CAPACITY, UNIT, EarlyHalo, Neighbours
from wanvae_app.parallel.messages import Message, Messages
from wanvae_app.parallel.partition import ROWS, Partition, plan_cut

if TYPE_CHECKING:  # it needs Triton
    from wanvae_app.parallel.peer_memory import PeerMemory


class Shard(Partition):
    """One rank's slab of a picture, and its connections to the ranks that own the other slabs.

    All ranks of a picture must call the same methods in the same order. Rows and tokens travel through `peer_memory`
    where GPUs reach each other's memory, else as `messages`; a single rank needs neither.

    `sent_bytes` counts the bytes of rows and tokens that this rank sent. `sequence` is the number of the next exchange
    through peer memory.
    """

    def __init__(
        self,
        dim: int,
        bounds: tuple[int, ...],
        rank: int,
        messages: Messages | None,
        peer_memory: PeerMemory | None = None,
    ) -> None:
        super().__init__(dim, bounds, rank)
        self.messages = messages
        self.peer_memory = peer_memory if self.num_ranks > 1 else None
        self.sent_bytes = 0
        self.sequence = 0
        self._waited_on_host = 0.0  # seconds, for messages

    @classmethod
    def plan(
        cls,
        height: int,
        width: int,
        size: int,
        rank: int,
        messages: Messages | None = None,
        peer_memory: PeerMemory | None = None,
    ) -> Shard | None:
        """Return the slab of `rank` when `size` ranks share a latent picture of height x width; see `plan_cut`.

        Returns None for a rank that owns nothing, because the picture has fewer rows than there are ranks.
        """
        cut = plan_cut(height, width, size)
        if rank >= len(cut.bounds) - 1:
            return None
        return cls(cut.dim, cut.bounds, rank, messages, peer_memory)

    @property
    def seconds_waited(self) -> float:
        """Seconds that this rank has waited in exchanges so far.

        Through peer memory it is the device that waits, so this blocks until the device has done its queued work.
        """
        seconds = self.request_seconds_waited()
        if self.peer_memory is not None:
            torch.cuda.current_stream().synchronize()
        return seconds()

    def request_seconds_waited(self) -> Callable[[], float]:
        """Queue a reading of `seconds_waited` behind the device's present work, without blocking.

        Call the result once the device has done that work: it returns the seconds waited until then.
        """
        on_host = self._waited_on_host
        if self.peer_memory is None:
            return lambda: on_host
        on_device = self.peer_memory.request_seconds_waited()
        return lambda: on_host + on_device()

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """Return the zero padding that a convolution still needs after `halo`: none along the cut."""
        if self.num_ranks == 1:
            return height, width
        return (height, 0) if self.columns else (0, width)

    def halo(self, x: Tensor, before: int, after: int) -> Tensor:
        """Return x [B C T H W] with a halo: `before` rows of the rank before, and `after` rows of the rank after.

        Rows beyond the picture are zeros, as a convolution's padding is. A single rank gets x as it is.
        """
        if self.num_ranks == 1:
            return x
        first = x.narrow(self.dim, 0, after)
        final = x.narrow(self.dim, x.shape[self.dim] - before, before)
        above, below = self.exchange_rows(first.movedim(1, -1), final.movedim(1, -1))
        return cat_channels_last((above.movedim(-1, 1), x, below.movedim(-1, 1)), self.dim)

    def fill_borders(self, frames: Tensor, rows: int) -> None:
        """Write the neighbours' rows into the outermost `rows` on either side of frames [B C T H+2*rows W].

        The rest of the frames is this rank's slab. Rows beyond the picture become zeros, as in `halo`.
        """
        dim, length = self.dim, frames.shape[self.dim]
        first, final = (frames.narrow(dim, start, rows) for start in (rows, length - 2 * rows))
        above, below = self.exchange_rows(first.movedim(1, -1), final.movedim(1, -1))
        frames.narrow(dim, 0, rows).copy_(above.movedim(-1, 1))
        frames.narrow(dim, length - rows, rows).copy_(below.movedim(-1, 1))

    def boundary_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a 3x3 window sees that reaches beyond the lower or the right edge of x [B T H W C].

        At the lower edge these are the last two rows, one row below and one column at the right, [B T 3 W+1 C]. At the
        right edge they are the last two columns and one more, [B T H 3 C]. Pixels beyond the picture are zeros.
        """
        batch, num_frames, height, width, c = x.shape
        lower = x.new_zeros(batch, num_frames, 3, width + 1, c)
        right = x.new_zeros(batch, num_frames, height, 3, c)
        lower[:, :, :2, :-1], right[:, :, :, :2] = x[:, :, -2:], x[:, :, :, -2:]
        if self.num_ranks > 1:
            first = x.narrow(self.dim - 1, 0, 1)
            _, added = self.exchange_rows(first, first[:0])
            if self.columns:
                lower[:, :, :2, -1:], right[:, :, :, 2:] = added[:, :, -2:], added
            else:
                lower[:, :, 2:, :-1] = added
        return lower, right

    def early_halo(self) -> EarlyHalo | None:
        """Return what a kernel needs to compute its boundary first; None where rows cannot leave before it is done.

        Pass it to the kernel, and then to `fill_halo`.
        """
        if self.peer_memory is None:
            return None
        return self.peer_memory.early_halo(self.columns, self.num_ranks)

    def fill_halo(self, frames: Tensor, slots: Tensor, early_halo: EarlyHalo | None = None) -> None:
        """Write the neighbours' rows into the border of the padded frames [slots, H + 2, W + 2, C] named by `slots`.

        Borders beyond the picture stay as they are. `early_halo` is what the kernel got that was started last, if that
        kernel writes these frames.
        """
        if self.num_ranks == 1:
            return
        dim = self.dim - 2  # of [slots, H, W, C]
        length = frames.shape[dim]
        if self.peer_memory is not None and frames.shape[3] * frames.element_size() % UNIT == 0:
            self.sequence = self.peer_memory.fill_halo(
                frames, slots, self.columns, self.sequence, self.num_ranks, early_halo
            )
            self._count_sent(len(slots) * frames[0].select(dim - 1, 0).nbytes)
            return
        first, final = (frames.select(dim, i)[slots].unsqueeze(dim) for i in (1, length - 2))
        above, below = self.exchange_rows(first, final)
        if self.has_before:
            frames.select(dim, 0)[slots] = above.squeeze(dim)
        if self.has_after:
            frames.select(dim, length - 1)[slots] = below.squeeze(dim)

    def reserve_exchange(self, frames: Tensor, num_frames: int) -> Neighbours | None:
        """Reserve the next exchange for the kernel that writes `num_frames` of frames [slots, H + 2, W + 2, C].

        Returns what the kernel needs to send its boundary and to fill the borders itself. Returns None where it cannot:
        then call `fill_halo` after it.
        """
        row = frames[0, 1:-1, 1:-1].select(self.dim - 3, 0)  # of pixels, without the border
        if self.peer_memory is None or row[0].nbytes % UNIT or num_frames * row.nbytes > CAPACITY * UNIT:
            return None
        self.sequence += 1
        self._count_sent(num_frames * row.nbytes)
        return self.peer_memory.neighbours(self.columns, self.sequence - 1, self.num_ranks)

    def exchange_rows(self, first: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        """Send `first` to the rank before and `final` to the rank after; return the rows that these two sent.

        The rows of the rank before have the shape of `final`, those of the rank after the shape of `first`; any two
        shapes of one dtype will do. Rows beyond the picture are zeros.
        """
        size = max(first.numel(), final.numel())
        if self.peer_memory is not None and size * first.element_size() % UNIT == 0:
            above, below, self.sequence = self.peer_memory.exchange_rows(
                first, final, self.sequence, self.num_ranks
            )
            self._count_sent(size * first.element_size())
            return above, below
        above, below = final.new_zeros(final.shape), first.new_zeros(first.shape)
        sends: list[Message] = []
        receives: list[Message] = []
        if self.has_before:
            sends.append((first, self.rank - 1))
            receives.append((above, self.rank - 1))
        if self.has_after:
            sends.append((final, self.rank + 1))
            receives.append((below, self.rank + 1))
        self.sent_bytes += sum(x.nbytes for x, _ in sends)
        # An empty tensor makes no message; the other rank, which receives the same shape, expects none.
        self._exchange_messages([m for m in sends if m[0].numel()], [m for m in receives if m[0].numel()])
        return above, below

    def all_gather_tokens(self, x: Tensor) -> Tensor:
        """Return the tokens of all ranks [N, all tokens, C] from this rank's x [N, tokens, C].

        N and C are the same on all ranks; the number of tokens is a multiple of the rank's latent rows.
        """
        if self.num_ranks == 1:
            return x
        num_frames, num_tokens, channels = x.shape
        per_row = num_tokens // self.num_rows(self.rank)
        self.sent_bytes += x.nbytes * (self.num_ranks - 1)
        if self.peer_memory is not None and per_row * channels * x.element_size() % UNIT == 0:
            total = per_row * self.bounds[-1]
            if self.peer_memory.has_room_for_tokens(num_frames * total * channels * x.element_size()):
                start = per_row * self.bounds[self.rank]
                return self.peer_memory.all_gather_tokens(x.contiguous(), start, total, self.num_ranks)
        others = [rank for rank in range(self.num_ranks) if rank != self.rank]
        parts = {rank: x.new_empty(num_frames, per_row * self.num_rows(rank), channels) for rank in others}
        self._exchange_messages([(x, rank) for rank in others], [(parts[rank], rank) for rank in others])
        parts[self.rank] = x
        return torch.cat([parts[rank] for rank in range(self.num_ranks)], 1)

    def make_sequence_even(self) -> None:
        """Make the number of exchanges even after a chunk, so that all chunks use the mailboxes in one order."""
        if self.sequence % 2:
            assert self.peer_memory is not None
            self.sequence = self.peer_memory.exchange_nothing(self.sequence, self.num_ranks)

    def _count_sent(self, num_bytes: int) -> None:
        """Count bytes that were sent to each neighbour."""
        self.sent_bytes += num_bytes * (self.has_before + self.has_after)

    def _exchange_messages(self, sends: list[Message], receives: list[Message]) -> None:
        """Send and receive all at once, and wait; the tensors to receive into are contiguous."""
        if not sends and not receives:
            return
        assert self.messages is not None
        start = time.perf_counter()
        self.messages.exchange([(x.contiguous(), peer) for x, peer in sends], receives)
        self._waited_on_host += time.perf_counter() - start


WHOLE = Shard(ROWS, (0, 1), 0, None)  # the whole picture on one rank; fits a picture of any size
