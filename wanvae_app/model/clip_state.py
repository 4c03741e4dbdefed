"""ClipState: all that one clip remembers between chunks, and whom it asks for the rows beside its own.

A layer asks its state two questions: what did I see last (time), and what are my neighbours' rows (space). With the
answers the same layer serves whole clips and chunks, one rank and many.

    state = vae.new_state(shard)
    for chunk in latents:          # each [1, C, T, h, W], this rank's rows
        frames = vae.decode(chunk, state)
"""

from __future__ import annotations

from torch import Tensor, nn

from wanvae_app.channels_last import cat_channels_last
from wanvae_app.parallel.shard import WHOLE, Shard


class ClipState:
    """The state of one clip in one direction; made by the caller, dropped at the clip's end."""

    def __init__(self, shard: Shard = WHOLE) -> None:
        self.shard = shard
        self.first = True  # nothing of the clip has been coded yet
        self._past: dict[nn.Module, Tensor] = {}

    def begins(self, layer: nn.Module, x: Tensor) -> bool:
        """Whether x [B C T H W] is the first frame that the layer sees, and alone: there are only zeros before it."""
        return x.shape[2] == 1 and layer not in self._past

    def past(self, layer: nn.Module, x: Tensor, length: int) -> Tensor:
        """Return x [B C T H W] with the last `length` frames that `layer` saw in front; zeros at the start."""
        before = self.last(layer, x, length)
        x = cat_channels_last((before, x), 2)
        before.copy_(x[:, :, -length:])
        return x

    def last(self, layer: nn.Module, x: Tensor, length: int) -> Tensor:
        """Return the last `length` frames that `layer` saw, like those of x [B C T H W]; zeros at the start.

        They are returned where they are kept: the caller writes the next ones over them.
        """
        if layer not in self._past:
            past = x.new_zeros(x.shape[0], length, *x.shape[3:], x.shape[1])
            self._past[layer] = past.movedim(-1, 1)  # channels last
        return self._past[layer]

    def window(self, layer: nn.Module, x: Tensor, past: int, rows: int) -> Tensor:
        """Return x with `rows` of the neighbours' rows on both sides and `past` frames in front.

        Halo first, past second: the past that is kept already has its halo, so only new frames travel.
        """
        if rows:
            x = self.shard.halo(x, rows, rows)
        return self.past(layer, x, past) if past else x

    def end_chunk(self) -> None:
        """Note that all layers have seen a chunk."""
        self.first = False
        self.shard.make_sequence_even()
