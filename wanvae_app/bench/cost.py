"""What a case costs, counted by coding it without data: arithmetic, and bytes from rank to rank."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wanvae_app.bench.case import Case
from wanvae_app.config import WanConfig
from wanvae_app.fast import layers as fused
from wanvae_app.kernels.mailbox import EarlyHalo, Neighbours
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.peer_memory import PeerMemory
from wanvae_app.parallel.shard import Shard


@dataclass(frozen=True)
class Traffic:
    """What one rank sends to the others in a chunk."""

    num_bytes: int = 0  # halo rows and tokens, to all other ranks together
    token_bytes: int = 0  # the tokens among them
    num_exchanges: int = 0  # exchanges of halo rows that computing waits for


class Lonely(Shard):
    """One rank's part as if there were others: what they would send is zeros, and there at once; what they would be
    sent is counted, without the padding of a link's messages."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard.dim, shard.bounds, shard.rank, None)
        # So that steps are recorded as with a link (see `cuda_graph.py`); nothing is ever asked of it.
        self.peer_memory = cast(PeerMemory, object())
        self.traffic = Traffic()

    @property
    def seconds_waited(self) -> float:
        return 0.0

    def early_halo(self) -> EarlyHalo | None:
        return None

    def fill_borders(self, frames: Tensor, slots: Tensor, early_halo: EarlyHalo | None = None) -> None:
        row = frames[0].select(self.dim - 3, 0)
        self._tell(len(slots) * row.nbytes, len(slots) * row.nbytes)

    def neighbours(self, frames: Tensor, count: int) -> Neighbours | None:
        row = frames[0, 1:-1, 1:-1].select(self.dim - 3, 0)
        self._tell(count * row.nbytes, count * row.nbytes, 0)  # behind pixels that are made meanwhile
        return Neighbours(self.columns, 0, {})

    def swap(self, first: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        self._tell(first.nbytes, final.nbytes)
        return final.new_zeros(final.shape), first.new_zeros(first.shape)

    def all_gather_tokens(self, x: Tensor) -> Tensor:
        if self.num_ranks == 1:
            return x
        begin, end, last = (self.bounds[i] for i in (self.rank, self.rank + 1, -1))
        row = x.shape[1] // (end - begin)  # tokens of one latent row
        sent = x.nbytes * (self.num_ranks - 1)
        self._add(Traffic(sent, sent))
        others = (x.new_zeros(x.shape[0], row * rows, x.shape[2]) for rows in (begin, last - end))
        return torch.cat([next(others), x, next(others)], 1)

    def _tell(self, before: int, behind: int, exchanges: int = 1) -> None:
        if self.num_ranks > 1:
            sent = before * (self.rank > 0) + behind * (self.rank < self.num_ranks - 1)
            self._add(Traffic(sent, 0, exchanges))

    def _add(self, more: Traffic) -> None:
        self.sent += more.num_bytes
        self.traffic = Traffic(*(a + b for a, b in zip(astuple(self.traffic), astuple(more), strict=True)))


@lru_cache(maxsize=64)
def count_tflop(config: WanConfig, case: Case) -> float:
    """The floating-point operations of a case in units of 1e12, one multiplication and addition as two.

    Runs two chunks on the meta device with PyTorch's FlopCounterMode; all chunks but the first are alike.
    """
    with torch.device("meta"):
        vae = WanVAE(config).requires_grad_(False)
    state = ClipState()
    counts: list[int] = []
    sizes = case.sizes(config, 1)
    for size in sizes[:2]:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            _code_chunk(vae, case, size, state)
        counts.append(counter.get_total_flops())
    return (counts[0] + counts[-1] * (len(sizes) - 1)) / 1e12


def count_traffic(
    config: WanConfig, case: Case, chunk: int, shard: Shard, dtype: torch.dtype, fast: bool = False
) -> list[Traffic]:
    """What this rank sends to the others in each chunk of a case, counted by running chunks on the meta device.

    The plain path sends the least possible: of new frames, the boundary row to each neighbour whose 3x3 convolution
    reads it, and for attention each pixel once to every other rank. The fast path sends more bytes, because its rows
    are padded, and exchanges more often where it codes a chunk a few frames at a time.
    """
    with torch.device("meta"):
        vae = WanVAE(config).to(dtype).requires_grad_(False)
    lonely = Lonely(shard)
    state, sizes = ClipState(lonely), case.sizes(config, chunk)
    known: dict[tuple[bool, int], Traffic] = {}  # by whether the chunk is the clip's first, and its frames
    with fused.pretended(fast), torch.no_grad():
        for size in sizes:
            step = (state.first, size)
            if step not in known:
                lonely.traffic = Traffic()
                _code_chunk(vae, case, size, state)
                known[step] = lonely.traffic
    return [known[(index == 0, size)] for index, size in enumerate(sizes)]


def _code_chunk(vae: WanVAE, case: Case, size: int, state: ClipState) -> None:
    """Code this rank's part of one chunk of `size` frames, on tensors without data."""
    config, shard = vae.config, state.shard
    if case.kind == "decode":
        _, channels, _, height, width = case.latent_shape(config)
        scale = 1
    else:
        channels, height, width, scale = 3, case.height, case.width, config.spatial_factor
    x = torch.empty(1, size, height, width, channels, dtype=vae.dtype, device="meta").movedim(-1, 1)
    if shard.num_ranks > 1:
        x = shard.part(x, scale)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    (vae.decode if case.kind == "decode" else vae.encode)(x, state)
