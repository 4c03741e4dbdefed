"""FastClipState: what one clip remembers on the fast path, where kernels read past frames where they were written."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wanvae_app.kernels import winograd
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.kernels.packed_weights import PackedWeights
from wanvae_app.kernels.padded_frames import PaddedFramePool, SlotTables
from wanvae_app.kernels.zero_frames import zero_frames
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import PixelNorm
from wanvae_app.parallel.shard import WHOLE, Shard


class FastClipState(ClipState):
    """The state of one clip in one direction, with the pools of padded frames that its convolutions read.

    `packed` and `tables` belong to the VAE and outlive the clip. `frames_at_once` is 2 or 4: that of the `CodePath`.
    """

    def __init__(
        self,
        packed: PackedWeights,
        tables: SlotTables,
        kernels: KernelSet,
        shard: Shard = WHOLE,
        frames_at_once: int = 4,
    ) -> None:
        super().__init__(shard)
        self.packed = packed
        self.kernels = kernels
        self.frames_at_once = frames_at_once
        self._tables = tables
        self._pools: dict[tuple[int, int, int, torch.dtype], PaddedFramePool] = {}

    @property
    def pools(self) -> list[PaddedFramePool]:
        """All pools of padded frames that the clip has."""
        return list(self._pools.values())

    def pool(self, x: Tensor, channels: int) -> PaddedFramePool:
        """Return the pool of padded frames of x's height and width [B C T H W], and `channels` wide.

        All layers share it, whether they read bf16 or fp16 (see `PaddedFramePool.view_as`).
        """
        height, width = x.shape[3:]
        dtype = torch.float16 if x.dtype.itemsize == 2 else x.dtype
        key = (height, width, channels, dtype)
        if key not in self._pools:
            self._pools[key] = PaddedFramePool(height, width, channels, dtype, x.device, self._tables)
        return self._pools[key]

    def uses_fp16(self, norm: PixelNorm | None, conv: nn.Conv3d) -> bool:
        """Whether a convolution after this norm reads fp16, whatever dtype the VAE has.

        Winograd's sums need fp16's precision. After a norm no number can overflow in fp16 (see `winograd.is_safe`).
        """
        if norm is None or self.kernels is KernelSet.DESCRIPTORS:
            return False
        gamma = norm.gamma
        if gamma.is_meta:
            return True
        return bool(
            self.packed.get(
                conv, lambda w: winograd.is_safe(w, gamma), f"safe {gamma.data_ptr()} {gamma._version}"
            )
        )

    def end_chunk(self) -> None:
        """Give each layer slots of its own for its past frames, so that later chunks all take the same steps."""
        for pool in self.pools:
            if zeros := pool.settle():
                zero_frames(pool, zeros)
        super().end_chunk()

    @torch.inference_mode()
    def restart(self, shard: Shard) -> None:
        """Begin the next clip of the same size in the same memory; `shard` is cut as the last clip's."""
        self.shard = shard
        self.first = True
        for past in self._past.values():
            past.zero_()
        for pool in self.pools:
            pool.restart()
