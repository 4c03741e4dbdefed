"""Window: the padded frames that the convolutions at one scale read, and which kernel convolves them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wanvae_app.kernels import launchers, winograd
from wanvae_app.kernels.packed_weights import bias_of, matrix_of, prepare
from wanvae_app.kernels.padded_frames import PaddedFramePool, PaddedFrameView
from wanvae_app.kernels.tiles import fits_one_tile
from wanvae_app.model.clip_state import ClipState

if TYPE_CHECKING:
    from wanvae_app.model.layers import PixelNorm


class ConvInputs:
    """The padded frames that some convolutions at one scale read: those of one width share a pool."""

    def __init__(
        self, convs: Sequence[tuple[PixelNorm | None, nn.Conv3d]], x: Tensor, state: ClipState, spare: int = 0
    ) -> None:
        self.state = state
        self.num_frames = x.shape[2]
        self._new: dict[nn.Module, tuple[int, ...]] = {}
        self._pools: dict[nn.Module, PaddedFramePool] = {}
        self._frames: dict[nn.Module, PaddedFrameView] = {}
        self._half = {conv for norm, conv in convs if holds(norm, conv, x)}
        # By Winograd so many frames together, 2 or 4; 0: directly.
        self._frames_per_tile = {
            conv: winograd.choose(conv.out_channels, self.num_frames) if conv in self._half else 0
            for _, conv in convs
        }
        kinds: dict[int, list[nn.Conv3d]] = {}
        for _, conv in convs:
            kinds.setdefault(conv.in_channels, []).append(conv)
        for width, mine in kinds.items():
            pool = state.padded(x, width + spare)
            for conv in mine:
                self._pools[conv] = pool
                self._frames[conv] = pool.view_as(torch.float16 if conv in self._half else x.dtype)
            # Two past frames for each, and one convolution's present ones at a time, two's where one writes what the
            # other one reads. At least two, because the chunks after the clip's first have more frames.
            kept = 2 * sum(not pool.knows(conv) for conv in mine)
            at_once = max(2, *(self._count(conv) for conv in mine))
            pool.reserve(kept, at_once * (1 + any(self._norms(*pair) for pair in pairwise(mine))))

    def activate(self, norm: PixelNorm | None, conv: nn.Conv3d, x: Tensor) -> None:
        """silu(norm(x)), or x itself, of [T, H, W, C] into what conv will read."""
        frames, slots = self._open(conv)
        if self._frames_per_tile[conv] == 4:
            assert norm is not None, conv
            past = self._pools[conv].past(conv)
            launchers.transform(x, norm.gamma, frames, past + slots, self.state.shard)
        else:
            launchers.activate(x, None if norm is None else norm.gamma, frames, slots, self.state.shard)

    def convolve(
        self,
        conv: nn.Conv3d,
        residual: Tensor | None = None,
        then: tuple[PixelNorm, nn.Conv3d] | None = None,
        matrix: Tensor | None = None,
        in_place: bool = False,
    ) -> Tensor:
        """conv of what was written for it, plus residual (`in_place`: over it): [T, H, W, N], or `then` through a norm
        into what another convolution reads."""
        pool, frames, new = self._pools[conv], self._frames[conv], self._new.pop(conv)
        past, frames_per_tile, shard = pool.past(conv), self._frames_per_tile[conv], self.state.shard
        count = winograd.num_products(self.num_frames) if frames_per_tile == 4 else 0
        dtype = frames.data.dtype
        gamma = into = early_halo = None
        if then is not None and self._norms(conv, then[1]):
            gamma, into = then[0].gamma, self._open(then[1])
        if frames_per_tile:
            products = prepare(
                conv, lambda w: winograd.prepare(w, frames_per_tile), f"winograd {frames_per_tile}"
            )
            slots = new[:count] if count else past + new
            early_halo = shard.early_halo() if into is not None else None
            out = winograd.convolve(
                products, bias_of(conv), frames, slots, residual, gamma, into, in_place, early_halo
            )
        else:
            taps, slots = (3, 3, 3), past + new
            if self.num_frames == 1 and past == (0, 0):  # zeros alone before it: one tap in time will do
                matrix = matrix_of(conv.weight) if matrix is None else matrix
                matrix = matrix.chunk(3, 1)[2].to(dtype)  # not kept: a clip has one such frame
                taps, slots = (1, 3, 3), new
            elif matrix is None:
                matrix = prepare(conv, lambda w: matrix_of(w).to(dtype), f"matrix {dtype}")
            out = launchers.convolve(
                matrix, bias_of(conv), taps, frames, slots, residual, gamma, into, in_place=in_place
            )
        pool.advance(conv, past + new)
        if into is not None:
            shard.fill_borders(into[0].data, into[0].table(into[1]), early_halo)
        elif then is not None:
            self.activate(*then, out)
        return out

    def _norms(self, conv: nn.Conv3d, following: nn.Conv3d) -> bool:
        """Whether conv's kernel can write what the following one reads."""
        if self._frames_per_tile[following] == 4:
            return False
        if self._frames_per_tile[conv]:
            return winograd.norms(conv.out_channels) and following in self._half
        return fits_one_tile(conv.out_channels)

    def _open(self, conv: nn.Conv3d) -> tuple[PaddedFrameView, tuple[int, ...]]:
        self._new[conv] = self._pools[conv].take(self._count(conv))
        return self._frames[conv], self._new[conv]

    def _count(self, conv: nn.Conv3d) -> int:
        """How many frames are written for conv; the last two of them, or of its past and them, are its past then."""
        return (
            winograd.num_products(self.num_frames) + 2
            if self._frames_per_tile[conv] == 4
            else self.num_frames
        )


def holds(norm: PixelNorm | None, conv: nn.Conv3d, x: Tensor) -> bool:
    """Whether conv's padded frames are fp16 whatever the model is: Winograd's sums need its precision, and behind a
    norm nothing can overflow."""
    if norm is None or not (launchers.elsewhere if x.is_meta else winograd.works(x.device)):
        return False
    gamma = norm.gamma
    return x.is_meta or prepare(
        conv, lambda w: winograd.safe(w, gamma), f"safe {gamma.data_ptr()} {gamma._version}"
    )
