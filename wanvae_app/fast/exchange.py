"""Norm and SiLU into padded frames, and the neighbours' rows into the frames' borders.

Where GPUs reach each other's memory, the kernel that writes the frames exchanges rows itself. Elsewhere rows travel
afterwards as messages.
"""

from __future__ import annotations

from torch import Tensor

from wanvae_app.kernels import norm, transform
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.parallel.shard import Shard


def activate(x: Tensor, gamma: Tensor | None, into: PaddedFrames, slots: Slots, shard: Shard) -> None:
    """Write silu(norm(x)), or without gamma x itself, of [T, H, W, C] into padded frames, borders included."""
    neighbours = shard.reserve_exchange(into.data, len(x))
    norm.activate(x, gamma, into, slots, neighbours)
    if neighbours is None:
        shard.fill_halo(into.data, into.table(slots))


def activate_transformed(x: Tensor, gamma: Tensor, into: PaddedFrames, slots: Slots, shard: Shard) -> None:
    """Write silu(norm(x)) of x [T, H, W, C], transformed for Winograd's kernel, into padded frames, borders included.

    The transform is that of four frames per tile. `slots` are those of `kernels.transform.transform`.
    """
    neighbours = shard.reserve_exchange(into.data, len(x))
    if shard.num_ranks == 1 or neighbours is not None:
        transform.transform(x, gamma, into, slots, neighbours)
        return
    by_message = transform.TransformByMessage(
        x, gamma, into, slots, shard.columns, before=shard.has_before, after=shard.has_after
    )
    by_message.finish(*shard.exchange_rows(*by_message.start()))
