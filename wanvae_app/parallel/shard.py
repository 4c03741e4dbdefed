"""Which part of the picture this rank owns, and what it asks of the others: halo rows, everyone's tokens.

The picture is cut along latent rows or latent columns ("rows" below means either). At every scale a rank's
rows are its latent rows times a power of two, so every rank knows every size without asking, and the picture
is never padded to divide evenly: padding would change its border.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wanvae_app.kernels.mailbox import CAPACITY, UNIT, EarlyHalo, Neighbours
from wanvae_app.parallel.messages import Messages
from wanvae_app.parallel.peer_memory import PeerMemory

ROWS, COLUMNS = 3, 4  # dimensions of B C T H W


def joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Parts B C T H W, which lie channels last in memory, joined along T, H or W so that the whole does, too.

    `torch.cat` itself goes by strides that tell nothing where there is one frame, or one row.
    """
    parts = [part for part in parts if part.shape[dim]]
    return (
        parts[0] if len(parts) == 1 else torch.cat([x.movedim(1, -1) for x in parts], dim - 1).movedim(-1, 1)
    )


class Shard:
    """One rank's part of a picture that `num_ranks` ranks hold together.

    `bounds` holds num_ranks + 1 latent positions along `dim`; rank r owns cuts[r] to cuts[r + 1]. Rows travel over
    the `link` where there is one, else as `messages`. `sent` counts the bytes that this rank sent.
    """

    def __init__(
        self,
        dim: int,
        bounds: tuple[int, ...],
        rank: int,
        messages: Messages | None,
        peer_memory: PeerMemory | None = None,
    ) -> None:
        assert 0 <= rank < len(bounds) - 1 and all(a < b for a, b in zip(bounds, bounds[1:], strict=False)), (
            bounds
        )
        self.dim = dim
        self.bounds = bounds
        self.rank = rank
        self.messages = messages
        self.peer_memory = peer_memory if self.num_ranks > 1 else None
        self.sent = 0
        self._waited = 0.0
        self.sequence = 0  # the number of the next exchange over the link

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
        """Cut a latent picture of height x width for `size` ranks, into rows or columns: the fairer way.

        Returns None for a rank that gets nothing, because the picture has fewer rows than there are ranks.
        Rank 0 never gets more than its share: it also serves the page.
        """

        def largest_share(length: int) -> float:
            parts = min(size, length)
            return -(-length // parts) / length

        # Of equals the shorter border: less travels.
        rows = (largest_share(height), width) <= (largest_share(width), height)
        dim, length = (ROWS, height) if rows else (COLUMNS, width)
        parts = min(size, length)
        if rank >= parts:
            return None
        return cls(dim, tuple(length * r // parts for r in range(parts + 1)), rank, messages, peer_memory)

    @property
    def num_ranks(self) -> int:
        return len(self.bounds) - 1

    @property
    def columns(self) -> bool:
        """Whether the picture is cut along these, or along its rows."""
        return self.dim == COLUMNS

    @property
    def seconds_waited(self) -> float:
        """How long this rank has stood in exchanges so far. Over a link it is the device that stands; whoever asks
        waits until it is done."""
        waited = self.note_wait()
        if self.peer_memory is not None:
            torch.cuda.current_stream().synchronize()
        return waited()

    def note_wait(self) -> Callable[[], float]:
        """How long this rank will have stood in exchanges when the device has done what it was given: ask then."""
        on_host = self._waited
        on_device = self.peer_memory.note_wait() if self.peer_memory is not None else None
        return lambda: on_host + (on_device() if on_device is not None else 0.0)

    def part_of(self, rank: int, x: Tensor, scale: int = 1) -> Tensor:
        """The slab of `rank` in a whole tensor with `scale` rows per latent row (a view)."""
        begin, end = self.bounds[rank] * scale, self.bounds[rank + 1] * scale
        return x.narrow(self.dim, begin, end - begin)

    def part(self, x: Tensor, scale: int = 1) -> Tensor:
        """This rank's slab of a whole tensor with `scale` rows per latent row (a view)."""
        return self.part_of(self.rank, x, scale)

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """The zero padding that a convolution still needs after `halo`: none along the cut."""
        if self.num_ranks == 1:
            return height, width
        return (0, width) if self.dim == ROWS else (height, 0)

    def halo(self, x: Tensor, before: int, after: int) -> Tensor:
        """x [B C T H W] with `before` and `after` rows of the neighbours around it along the cut.

        The picture's edge counts as zeros, as a convolution's padding does. A single rank has no cut: x
        comes back as it is.
        """
        if self.num_ranks == 1:
            return x
        length = x.shape[self.dim]
        first, final = x.narrow(self.dim, 0, after), x.narrow(self.dim, length - before, before)
        above, below = self.swap(first.movedim(1, -1), final.movedim(1, -1))
        return joined((above.movedim(-1, 1), x, below.movedim(-1, 1)), self.dim)

    def boundary_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last two rows of x [B T H W C] and its last two columns, with what lies below and to the right of them:
        [B T 3 W+1 C] and [B T H 3 C]. Beyond the picture lie zeros, as with `halo`.
        """
        batch, num_frames, height, width, c = x.shape
        rows = x.new_zeros(batch, num_frames, 3, width + 1, c)
        columns = x.new_zeros(batch, num_frames, height, 3, c)
        rows[:, :, :2, :-1], columns[:, :, :, :2] = x[:, :, -2:], x[:, :, :, -2:]
        if self.num_ranks > 1:
            first = x.narrow(self.dim - 1, 0, 1)
            _, next_one = self.swap(first, first[:0])
            if self.dim == ROWS:
                rows[:, :, 2:, :-1] = next_one
            else:
                rows[:, :, :2, -1:], columns[:, :, :, 2:] = next_one[:, :, -2:], next_one
        return rows, columns

    def early_halo(self) -> EarlyHalo | None:
        """What a kernel is told that can make its edges before the rest; None where that is of no use."""
        return (
            self.peer_memory.early_halo(self.columns, self.num_ranks)
            if self.peer_memory is not None
            else None
        )

    def fill_borders(self, frames: Tensor, slots: Tensor, early_halo: EarlyHalo | None = None) -> None:
        """Put the neighbours' rows into the border of padded frames [slots, H + 2, W + 2, C], where they are.

        Only the frames in `slots` travel. Borders at the picture's edge stay as they are. `early_halo` is what
        the kernel was told that has just been started to write the frames.
        """
        if self.num_ranks == 1:
            return
        dim = self.dim - 2
        length = frames.shape[dim]
        if self.peer_memory is not None and frames.shape[3] * frames.element_size() % UNIT == 0:
            self.sequence = self.peer_memory.fill_borders(
                frames, slots, self.columns, self.sequence, self.num_ranks, early_halo
            )
            self._count(len(slots) * frames[0].select(dim - 1, 0).nbytes)
            return
        first, final = (frames.select(dim, i)[slots].unsqueeze(dim) for i in (1, length - 2))
        above, below = self.swap(first, final)
        if self.rank > 0:
            frames.select(dim, 0)[slots] = above.squeeze(dim)
        if self.rank < self.num_ranks - 1:
            frames.select(dim, length - 1)[slots] = below.squeeze(dim)

    def neighbours(self, frames: Tensor, count: int) -> Neighbours | None:
        """For a kernel that writes `count` of the padded frames [slots, H + 2, W + 2, C]: what it needs to send its
        edges, and to fill the borders, by itself. None where it cannot: then it is for `fill_borders`.
        """
        edge = frames[0, 1:-1, 1:-1].select(self.dim - 3, 0)
        if self.peer_memory is None or edge[0].nbytes % UNIT or count * edge.nbytes > CAPACITY * UNIT:
            return None
        self.sequence += 1
        self._count(count * edge.nbytes)
        return self.peer_memory.neighbours(self.columns, self.sequence - 1, self.num_ranks)

    def swap(self, first: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        """Send my first rows to the rank before and my final rows to the rank behind; get theirs, in the shapes of
        `final` and `first`, which are of any shape but of one type. Zeros from beyond the picture."""
        size = max(first.numel(), final.numel())
        if self.peer_memory is not None and size * first.element_size() % UNIT == 0:
            above, below, self.sequence = self.peer_memory.swap(first, final, self.sequence, self.num_ranks)
            self._count(size * first.element_size())
            return above, below
        above, below = final.new_zeros(final.shape), first.new_zeros(first.shape)
        sends, receives = [], []
        if self.rank > 0:
            sends.append((first, self.rank - 1))
            receives.append((above, self.rank - 1))
        if self.rank < self.num_ranks - 1:
            sends.append((final, self.rank + 1))
            receives.append((below, self.rank + 1))
        # An empty tensor is no message: the peer, which asks for the same, expects none.
        self.sent += sum(x.nbytes for x, _ in sends)
        self._exchange([m for m in sends if m[0].numel()], [m for m in receives if m[0].numel()])
        return above, below

    def end_chunk(self) -> None:
        """A chunk is done: make the number of exchanges even, so that every chunk begins as the first one did."""
        if self.sequence % 2:
            assert self.peer_memory is not None
            self.sequence = self.peer_memory.rest(self.sequence, self.num_ranks)

    def _count(self, num_bytes: int) -> None:
        self.sent += num_bytes * ((self.rank > 0) + (self.rank < self.num_ranks - 1))

    def all_gather_tokens(self, x: Tensor) -> Tensor:
        """x [N, tokens, C] of all ranks, joined along the tokens. C and N agree; tokens follow the cuts."""
        if self.num_ranks == 1:
            return x
        mine = self.bounds[self.rank + 1] - self.bounds[self.rank]
        row = x.shape[1] // mine  # tokens of one latent row
        self.sent += x.nbytes * (self.num_ranks - 1)
        if self.peer_memory is not None and row * x.shape[2] * x.element_size() % UNIT == 0:
            whole = row * self.bounds[-1]
            if self.peer_memory.has_room(x.shape[0] * whole * x.shape[2] * x.element_size()):
                return self.peer_memory.gather(
                    x.contiguous(), row * self.bounds[self.rank], whole, self.num_ranks
                )
        parts = []
        for rank in range(self.num_ranks):
            rows = self.bounds[rank + 1] - self.bounds[rank]
            parts.append(x if rank == self.rank else x.new_empty(x.shape[0], row * rows, x.shape[2]))
        others = [rank for rank in range(self.num_ranks) if rank != self.rank]
        self._exchange([(x, rank) for rank in others], [(parts[rank], rank) for rank in others])
        return torch.cat(parts, 1)

    def _exchange(self, sends: list[tuple[Tensor, int]], receives: list[tuple[Tensor, int]]) -> None:
        """Send tensors and receive into contiguous ones, all at once."""
        if not sends and not receives:
            return
        assert self.messages is not None
        start = time.perf_counter()
        self.messages.exchange([(x.contiguous(), peer) for x, peer in sends], receives)
        self._waited += time.perf_counter() - start


WHOLE = Shard(ROWS, (0, 1), 0, None)  # one rank that has the whole picture, of any size
