"""Window: the padded frames that the convolutions at one scale read, and which kernel convolves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wanvae_app.kernels import launchers, winograd
from wanvae_app.padded import PaddedFrames, SeenAs
from wanvae_app.prepared import bias_of, matrix_of, prepare
from wanvae_app.stream import Stream

if TYPE_CHECKING:
    from wanvae_app.layers import PixelNorm


class Window:
    """The padded frames that some convolutions at one scale read: those of one width share a pool."""

    def __init__(
        self, convs: Sequence[tuple[PixelNorm | None, nn.Conv3d]], x: Tensor, stream: Stream, spare: int = 0
    ) -> None:
        self.stream = stream
        self.num_frames = x.shape[2]
        self._new: dict[nn.Module, tuple[int, ...]] = {}
        self._pools: dict[nn.Module, PaddedFrames] = {}
        self._frames: dict[nn.Module, SeenAs] = {}
        self._half = {conv for norm, conv in convs if holds(norm, conv, x)}
        self._schemes = {
            conv: winograd.choose(conv.out_channels, self.num_frames) if conv in self._half else None
            for _, conv in convs
        }
        kinds: dict[int, list[nn.Conv3d]] = {}
        for _, conv in convs:
            kinds.setdefault(conv.in_channels, []).append(conv)
        for width, mine in kinds.items():
            pool = stream.padded(x, width + spare)
            for conv in mine:
                self._pools[conv] = pool
                self._frames[conv] = pool.seen_as(torch.float16 if conv in self._half else x.dtype)
            # Two past frames for each, and two convolutions' present ones at a time: at least two of them, because
            # the chunks after the clip's first have more frames.
            kept = 2 * sum(not pool.knows(conv) for conv in mine)
            pool.reserve(kept, min(len(mine), 2) * max(self.num_frames, 2))

    def activate(self, norm: PixelNorm | None, conv: nn.Conv3d, x: Tensor) -> None:
        """silu(norm(x)), or x itself, of [T, H, W, C] into what conv will read."""
        frames, slots = self._open(conv)
        scheme = self._schemes[conv]
        if scheme is not None and scheme.ready:
            assert norm is not None, conv
            launchers.transform(x, norm.gamma, frames, self._pools[conv].past(conv) + slots, scheme)
        else:
            launchers.activate(x, None if norm is None else norm.gamma, frames, slots)

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
        self.stream.shard.fill_borders(frames.data, frames.table(new))
        past, scheme = pool.past(conv), self._schemes[conv]
        n, dtype = conv.out_channels, frames.data.dtype
        gamma = into = None
        if then is not None and (
            winograd.norms(n) and then[1] in self._half if scheme else launchers.fits_one_tile(n)
        ):
            gamma, into = then[0].gamma, self._open(then[1])
        if scheme:
            per, ready = scheme
            products = prepare(conv, lambda w: winograd.prepare(w, per), f"winograd {per}")
            slots = new[:-2] if ready else past + new
            out = winograd.convolve(
                products, bias_of(conv), frames, slots, residual, gamma, into, in_place, ready
            )
        else:
            if matrix is None and dtype != conv.weight.dtype:
                matrix = prepare(conv, lambda w: matrix_of(w).to(dtype), "half")
            matrix = matrix_of(conv.weight) if matrix is None else matrix
            taps = (3, 3, 3)
            out = launchers.convolve(
                matrix, bias_of(conv), taps, frames, past + new, residual, gamma, into, in_place=in_place
            )
        pool.advance(conv, past + new)
        if then is not None and into is None:
            self.activate(*then, out)
        return out

    def _open(self, conv: nn.Conv3d) -> tuple[SeenAs, tuple[int, ...]]:
        """Frames to write what conv will read; if that is made ready for it, the last two are there besides."""
        scheme = self._schemes[conv]
        count = 2 + scheme.num_products(self.num_frames) if scheme and scheme.ready else self.num_frames
        self._new[conv] = self._pools[conv].take(count)
        return self._frames[conv], self._new[conv]


def holds(norm: PixelNorm | None, conv: nn.Conv3d, x: Tensor) -> bool:
    """Whether conv's padded frames are fp16 whatever the model is: Winograd's sums need its precision, and behind a
    norm nothing can overflow."""
    if norm is None or not (launchers.elsewhere if x.is_meta else winograd.works(x.device)):
        return False
    gamma = norm.gamma
    return x.is_meta or prepare(
        conv, lambda w: winograd.safe(w, gamma), f"safe {gamma.data_ptr()} {gamma._version}"
    )
