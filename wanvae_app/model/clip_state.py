"""ClipState: what one clip remembers between chunks, and the shard that it asks for neighbours' rows.

A layer asks its state two questions: which frames did I see last (time), and what are my neighbours' rows (space)? With
the answers the same layer serves whole clips and chunks, one rank and many.

    state = vae.new_state(shard)
    for chunk in latents:  # each [1, z, T, h, W], this rank's rows
        frames = vae.decode(chunk, state)

Shapes are those of `layers.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wanvae_app.parallel.shard import WHOLE, Shard


class ClipState:
    """The state of one clip in one direction. The caller makes it, and drops it at the clip's end."""

    def __init__(self, shard: Shard = WHOLE) -> None:
        self.shard = shard
        self.first = True  # whether no chunk of the clip has been coded yet
        self._past: dict[nn.Module, Tensor] = {}

    def is_first_frame(self, layer: nn.Module, x: Tensor) -> bool:
        """Whether x [B C T H W] is a single frame, and the first one that `layer` sees: its past is all zeros."""
        return x.shape[2] == 1 and layer not in self._past

    def largest_share(self, amount: int) -> int:
        """Return how much the rank with most rows has of a thing of which this rank has `amount`, in proportion.

        All ranks compute the same number from their own amounts.
        """
        bounds = self.shard.bounds
        most = max(after - before for before, after in zip(bounds, bounds[1:], strict=False))
        return amount // self.shard.num_rows(self.shard.rank) * most

    def past_frames(self, layer: nn.Module, x: Tensor, length: int) -> Tensor:
        """Return the last `length` frames that `layer` saw, of the size of x's; zeros at the clip's start.

        This is the memory where the state keeps them, [B C length H W]: the caller overwrites them with the next ones.
        """
        if layer not in self._past:
            past = x.new_zeros(x.shape[0], length, *x.shape[3:], x.shape[1])  # B T H W C
            self._past[layer] = past.movedim(-1, 1)
        return self._past[layer]

    def conv_input(self, layer: nn.Module, x: Tensor, rows: int, length: int, silu: bool = False) -> Tensor:
        """Return what a convolution of x reads, [B C length+T H+halo W+halo], and keep its last frames for later.

        These are `length` past frames, then x [B C T H W], or with `silu` silu(x); along the cut also `rows` of the
        neighbours' rows on either side. The halo comes first: past frames were kept with theirs, so only rows of new
        frames travel. Everything is written where the convolution reads it, because copies would need more memory.
        """
        shard = self.shard
        halo = rows if shard.num_ranks > 1 else 0
        shape = [x.shape[0], length + x.shape[2], *x.shape[3:], x.shape[1]]  # B T H W C
        shape[shard.dim - 1] += 2 * halo
        frames = x.new_empty(shape).movedim(-1, 1)
        new = frames[:, :, length:]
        inside = new.narrow(shard.dim, halo, x.shape[shard.dim])
        if silu:
            torch.ops.aten.silu.out(x, out=inside)  # F.silu takes no `out`
        else:
            inside.copy_(x)
        if halo:
            shard.fill_borders(new, halo)
        if length:
            past = self.past_frames(layer, new, length)
            frames[:, :, :length] = past
            past.copy_(frames[:, :, -length:])
        return frames

    def end_chunk(self) -> None:
        """Note that all layers have seen a chunk."""
        self.first = False
        self.shard.make_sequence_even()
