"""A piece of work to time, and what it takes by counting alone: arithmetic, and bytes from rank to rank."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wanvae_app.codec import chunk_sizes
from wanvae_app.config import WanConfig
from wanvae_app.fast import layers as fused
from wanvae_app.kernels.mailbox import EarlyHalo, Neighbours
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.peer_memory import PeerMemory
from wanvae_app.parallel.shard import Shard


@dataclass(frozen=True)
class Case:
    """One piece of work: "decode" or "encode", and the clip's height, width and number of frames."""

    kind: str
    height: int
    width: int
    num_frames: int

    @classmethod
    def parse(cls, text: str, config: WanConfig) -> Case:
        """A case such as decode:480x832x81; ValueError if this VAE cannot do it."""
        found = re.fullmatch(r"(decode|encode):(\d+)x(\d+)x(\d+)", text)
        if found is None:
            raise ValueError(
                f"{text!r} is no case; write KIND:HEIGHTxWIDTHxFRAMES, such as decode:480x832x81."
            )
        case = cls(found[1], int(found[2]), int(found[3]), int(found[4]))
        config.num_latents(case.num_frames)
        if case.height % config.spatial_factor or case.width % config.spatial_factor:
            raise ValueError(f"{text}: height and width must be multiples of {config.spatial_factor}.")
        return case

    def latent_shape(self, config: WanConfig) -> tuple[int, int, int, int, int]:
        """The whole latent, B C T H W."""
        scale = config.spatial_factor
        num_latents = config.num_latents(self.num_frames)
        return 1, config.z_dim, num_latents, self.height // scale, self.width // scale

    def sizes(self, config: WanConfig, chunk: int) -> list[int]:
        """Frames of each chunk that goes in, latent ones if the case decodes, for `chunk` latent frames at a time."""
        sizes = chunk_sizes(config.num_latents(self.num_frames), chunk)
        if self.kind == "decode":
            return sizes
        return [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]

    def __str__(self) -> str:
        return f"{self.kind} {self.height}x{self.width}x{self.num_frames}"


@dataclass(frozen=True)
class Traffic:
    """What one rank tells the others in a chunk."""

    num_bytes: int = 0  # rows and tokens that it sends, to all of them together
    token_bytes: int = 0  # of these, tokens
    num_exchanges: int = 0  # with the neighbours, of rows, that work waits for


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
def tera_flop(config: WanConfig, case: Case) -> float:
    """The arithmetic of a case in TFLOP, counted by running two chunks without data."""
    with torch.device("meta"):
        vae = WanVAE(config).requires_grad_(False)
    state, counts = ClipState(), []
    sizes = case.sizes(config, 1)
    for size in sizes[:2]:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            _step(vae, case, size, state)
        counts.append(counter.get_total_flops())
    return (counts[0] + counts[-1] * (len(sizes) - 1)) / 1e12


def count_traffic(
    config: WanConfig, case: Case, chunk: int, shard: Shard, dtype: torch.dtype, fast: bool = False
) -> list[Traffic]:
    """What this rank tells the others in each chunk of a case, counted by running chunks without data.

    On the plain path it is the least possible: a 3x3 convolution needs one row of the new frames, as wide as the
    picture, from each neighbour that its taps reach, attention everyone's pixels once. The fast path's
    rows have the padding of its frames, and where it takes them a few frames at a time it asks more often.
    """
    with torch.device("meta"):
        vae = WanVAE(config).to(dtype).requires_grad_(False)
    lonely = Lonely(shard)
    state, sizes = ClipState(lonely), case.sizes(config, chunk)
    known: dict[tuple[bool, int], Traffic] = {}
    with fused.pretended(fast), torch.no_grad():
        for size in sizes:
            step = (state.first, size)
            if step not in known:
                lonely.traffic = Traffic()
                _step(vae, case, size, state)
                known[step] = lonely.traffic
    return [known[(index == 0, size)] for index, size in enumerate(sizes)]


def _step(vae: WanVAE, case: Case, size: int, state: ClipState) -> None:
    """One chunk of `size` frames, of this rank's part, on tensors without data."""
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
