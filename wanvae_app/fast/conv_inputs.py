"""ConvInputs: the padded frames that the 3x3x3 convolutions at one scale read, and the kernel that convolves them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.fast.convolve import choose_frames_per_tile, convolve, frames_at_once, norms_result
from wanvae_app.fast.exchange import activate, activate_transformed
from wanvae_app.kernels import winograd
from wanvae_app.kernels.padded_frames import PaddedFramePool, PaddedFrameView, Slots
from wanvae_app.model.layers import PixelNorm


class ConvInputs:
    """The inputs of some convolutions at one scale, in padded frames; convolutions of one input width share a pool.

    For each convolution in order, call `write`, unless the `convolve` before has written its input, then `convolve`.
    """

    def __init__(
        self,
        convs: Sequence[tuple[PixelNorm | None, nn.Conv3d]],
        x: Tensor,
        state: FastClipState,
        spare: int = 0,
    ) -> None:
        """Reserve frames for `convs`, each with the norm before it, for the next frames x [1 C T H W].

        Frames have `spare` channels more than x, because kernels need a multiple of eight.
        """
        self.state = state
        self.num_frames = x.shape[2]
        self._written: dict[nn.Module, Slots] = {}  # new frames, to be convolved next
        self._pools: dict[nn.Module, PaddedFramePool] = {}
        self._frames: dict[nn.Module, PaddedFrameView] = {}
        self._half = {conv for norm, conv in convs if state.uses_fp16(norm, conv)}
        # 2 or 4: the frames that Winograd's kernel computes together. 0: the direct kernel convolves.
        self._frames_per_tile = {
            conv: self._choose_frames_per_tile(conv, self.num_frames) for _, conv in convs
        }
        by_width: dict[int, list[nn.Conv3d]] = {}
        for _, conv in convs:
            by_width.setdefault(conv.in_channels, []).append(conv)
        for width, sharing in by_width.items():
            pool = state.pool(x, width + spare)
            for conv in sharing:
                self._pools[conv] = pool
                self._frames[conv] = pool.view_as(torch.float16 if conv in self._half else x.dtype)
            # Each convolution keeps two past frames. New frames are those of one convolution at a time, or of two
            # where one writes the input of the next; at least those of a usual chunk after the clip's first, because a
            # pool that grows then takes its memory twice for a moment.
            num_kept = 2 * sum(not pool.has_past(conv) for conv in sharing)
            num_new = max(
                self._num_written(conv, count)
                for conv in sharing
                for count in (self.num_frames, frames_at_once(state, conv.out_channels))
            )
            chained = any(self._writes_next(*pair) for pair in pairwise(sharing))
            pool.reserve(num_kept, num_new * (1 + chained))

    def write(self, norm: PixelNorm | None, conv: nn.Conv3d, x: Tensor) -> None:
        """Write silu(norm(x)) of x [T, H, W, C], or x itself if `norm` is None, as the input of `conv`."""
        frames, slots = self._open(conv)
        if self._frames_per_tile[conv] == 4:
            assert norm is not None, conv
            past = self._pools[conv].past(conv)
            activate_transformed(x, norm.gamma, frames, past + slots, self.state.shard)
        else:
            activate(x, None if norm is None else norm.gamma, frames, slots, self.state.shard)

    def convolve(
        self,
        conv: nn.Conv3d,
        residual: Tensor | None = None,
        then: tuple[PixelNorm, nn.Conv3d] | None = None,
        in_place: bool = False,
    ) -> Tensor:
        """Convolve the input of `conv`, add `residual` [T, H, W, N], and return the result [T, H, W, N].

        With `in_place` the result overwrites `residual`. With `then`, a norm and the next convolution,
        silu(norm(result)) is written as the input of that convolution.
        """
        pool, frames, new = self._pools[conv], self._frames[conv], self._written.pop(conv)
        past, frames_per_tile, shard = pool.past(conv), self._frames_per_tile[conv], self.state.shard
        gamma = into = early_halo = None
        if then is not None and self._writes_next(conv, then[1]):
            gamma, into = then[0].gamma, self._open(then[1])
        if frames_per_tile and into is not None:
            early_halo = shard.early_halo()
        out = convolve(
            conv,
            self.state,
            frames_per_tile,
            frames,
            past,
            new,
            self.num_frames,
            residual,
            gamma,
            into,
            in_place,
            early_halo,
        )
        pool.advance(conv, past + new)
        if into is not None:
            shard.fill_halo(into[0].data, into[0].table(into[1]), early_halo)
        elif then is not None:
            self.write(*then, out)
        return out

    def _writes_next(self, conv: nn.Conv3d, following: nn.Conv3d) -> bool:
        """Whether conv's kernel can normalise its result and write the input of the following convolution."""
        frames_per_tile = self._frames_per_tile[conv]
        if self._frames_per_tile[following] == 4 or (frames_per_tile and following not in self._half):
            return False
        return norms_result(self.state.kernels, frames_per_tile, conv.out_channels)

    def _open(self, conv: nn.Conv3d) -> tuple[PaddedFrameView, Slots]:
        """Take slots for the input of conv. The last two frames that it has are its past later."""
        pool = self._pools[conv]
        slots = pool.take(self._num_written(conv, self.num_frames))
        if (
            self._frames_per_tile[conv] == 4
        ):  # the last two frames take the place of the past that the transform reads
            slots += tuple(slot or pool.take(1)[0] for slot in pool.past(conv))
        self._written[conv] = slots
        return self._frames[conv], slots

    def _num_written(self, conv: nn.Conv3d, num_frames: int) -> int:
        """Return how many frames conv's input of so many new frames takes, apart from its past."""
        is_transformed = self._choose_frames_per_tile(conv, num_frames) == 4
        return winograd.num_transformed(num_frames) if is_transformed else num_frames

    def _choose_frames_per_tile(self, conv: nn.Conv3d, num_frames: int) -> int:
        """Return `choose_frames_per_tile` of conv, which is 0 where it does not read fp16."""
        if conv not in self._half:
            return 0
        return choose_frames_per_tile(self.state.kernels, conv.out_channels, num_frames)
