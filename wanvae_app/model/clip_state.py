"""ClipState: what one clip remembers between chunks, and the shard that it asks for neighbours' rows.

A layer asks its state two questions: which frames did I see last (time), and what are my neighbours' rows (space)? With
the answers the same layer serves whole clips and chunks, one rank and many.

    state = vae.new_state(shard)
    for chunk in latents:  # each [1, z, T, h, W], this rank's rows
        frames = vae.decode(chunk, state)

Shapes are those of `layers.py`.
"""

from __future__ import annotations

from torch import Tensor, nn

from wanvae_app.channels_last import cat_channels_last
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

    def past_frames(self, layer: nn.Module, x: Tensor, length: int) -> Tensor:
        """Return the last `length` frames that `layer` saw, of the size of x's; zeros at the clip's start.

        This is the memory where the state keeps them, [B C length H W]: the caller overwrites them with the next ones.
        """
        if layer not in self._past:
            past = x.new_zeros(x.shape[0], length, *x.shape[3:], x.shape[1])  # B T H W C
            self._past[layer] = past.movedim(-1, 1)
        return self._past[layer]

    def with_past(self, layer: nn.Module, x: Tensor, length: int) -> Tensor:
        """Return the last `length` frames that `layer` saw, then x: [B C length+T H W]. Keep x's last for later."""
        past = self.past_frames(layer, x, length)
        x = cat_channels_last((past, x), 2)
        past.copy_(x[:, :, -length:])
        return x

    def with_halo_and_past(self, layer: nn.Module, x: Tensor, rows: int, length: int) -> Tensor:
        """Return x with `rows` of its neighbours' rows on either side, and `length` past frames in front.

        The halo comes first: past frames were kept with theirs, so only rows of new frames travel.
        """
        if rows:
            x = self.shard.halo(x, rows, rows)
        return self.with_past(layer, x, length) if length else x

    def end_chunk(self) -> None:
        """Note that all layers have seen a chunk."""
        self.first = False
        self.shard.make_sequence_even()
