"""What is written into padded frames, together with the exchange of edge rows between neighbouring ranks.

Where GPUs reach each other's memory, the kernel that writes the frames exchanges the rows itself. Elsewhere they travel
as messages afterwards.
"""

from __future__ import annotations

from torch import Tensor

from wanvae_app.kernels import norm, transform
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.parallel.shard import Shard


def activate(x: Tensor, gamma: Tensor | None, into: PaddedFrames, slots: Slots, shard: Shard) -> None:
    """Write silu(norm(x)), or without gamma x itself, of [T, H, W, C] into padded frames, borders included."""
    neighbours = shard.neighbours(into.data, len(x))
    norm.activate(x, gamma, into, slots, neighbours)
    if neighbours is None:
        shard.fill_borders(into.data, into.table(slots))


def activate_transformed(x: Tensor, gamma: Tensor, into: PaddedFrames, slots: Slots, shard: Shard) -> None:
    """Write silu(norm(x)) of [T, H, W, C] as Winograd's kernel reads it for four frames at a time, borders included.

    `slots` are as for `kernels.transform.transform`.
    """
    neighbours = shard.neighbours(into.data, len(x))
    if shard.num_ranks == 1 or neighbours is not None:
        transform.transform(x, gamma, into, slots, neighbours)
        return
    last = shard.num_ranks - 1
    by_message = transform.TransformByMessage(
        x, gamma, into, slots, shard.columns, before=shard.rank > 0, after=shard.rank < last
    )
    by_message.finish(*shard.swap(*by_message.start()))
