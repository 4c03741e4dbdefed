"""Slabs of a tensor between rank 0, which has the whole, and the ranks that own them.

All ranks know all sizes from the shard, so only data travels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard


def scatter(
    group: Group,
    shard: Shard,
    whole: Tensor | None,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    dim: int,
    scale: int = 1,
) -> Tensor:
    """Return this rank's slab of a tensor of `shape` that rank 0 has, in `dtype` on this rank's device.

    All ranks call this; rank 0 gives the `whole` tensor, which is cut along `dim` with `scale` rows per latent row.
    """
    if shard.rank > 0:
        assert group.data is not None
        mine = torch.empty(shard.part_shape(shape, scale, dim), dtype=dtype, device=group.device)
        group.data.exchange([], [(mine, 0)])
        return mine
    assert whole is not None and tuple(whole.shape) == tuple(shape), shape
    parts = [
        _to_device(shard.part(whole, scale, dim, rank).to(dtype).contiguous(), group.device)
        for rank in range(shard.num_ranks)
    ]
    if shard.num_ranks > 1:
        assert group.data is not None
        group.data.exchange([(parts[rank], rank) for rank in range(1, shard.num_ranks)], [])
    return parts[0]


def gather(group: Group, shard: Shard, mine: Tensor, shape: tuple[int, ...], dim: int) -> Tensor | None:
    """Return the whole tensor of `shape` on rank 0's CPU, from all ranks' slabs `mine`; None on the other ranks.

    All ranks call this; the tensor is cut along `dim`, with one row per latent row.
    """
    whole = gather_on_device(group, shard, mine, shape, dim)
    return whole.cpu() if whole is not None else None


def gather_on_device(
    group: Group, shard: Shard, mine: Tensor, shape: tuple[int, ...], dim: int, scale: int = 1
) -> Tensor | None:
    """Return the whole tensor of `shape` on rank 0's device, from all ranks' slabs `mine`; None on the other ranks.

    All ranks call this; the tensor is cut along `dim`, with `scale` rows per latent row.
    """
    if shard.rank > 0:
        assert group.data is not None
        group.data.exchange([(mine.contiguous(), 0)], [])
        return None
    others = range(1, shard.num_ranks)
    parts = [mine, *(mine.new_empty(shard.part_shape(shape, scale, dim, rank)) for rank in others)]
    if shard.num_ranks > 1:
        assert group.data is not None
        group.data.exchange([], [(parts[rank], rank) for rank in others])
    return torch.cat(parts, dim)


def _to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy x to the device. On a GPU the copy need not be done yet: from pinned memory it waits for no earlier work."""
    if x.device.type == "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
