"""The Wan VAE, 2.1 and 2.2: one definition for one rank and many, whole clips and chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanvae_app.config import WanConfig
from wanvae_app.fast import layers as fused
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import (
    Attention,
    CausalConv3d,
    Downsample,
    PixelNorm,
    ResidualBlock,
    Upsample,
    average_down,
    patchify,
    residual_blocks,
    unpatchify,
)
from wanvae_app.parallel.shard import joined


class Head(nn.Module):
    """Norm, SiLU and the last convolution."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = PixelNorm(in_dim)
        self.conv = CausalConv3d(in_dim, out_dim, 3)

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        if fused.serves(x, x.shape[1]) and self.conv.out_channels <= 16:
            return fused.head(self.norm, self.conv, x, state)
        return self.conv(F.silu(self.norm(x)), state)


class Middle(nn.Sequential):
    """Attention between two residual blocks, at the coarsest scale."""

    def __init__(self, dim: int) -> None:
        super().__init__(ResidualBlock(dim, dim), Attention(dim), ResidualBlock(dim, dim))

    def forward(self, x: Tensor, state: ClipState) -> Tensor:  # type: ignore[override]
        before, attention, after = self
        assert isinstance(before, ResidualBlock) and isinstance(after, ResidualBlock)
        x = attention(residual_blocks([before], x, state, can_overwrite=True), state)
        return residual_blocks([after], x, state, can_overwrite=True)


class Level(nn.Module):
    """Residual blocks at one scale, then (not at the last) the step to the next."""

    def __init__(
        self, in_dim: int, dim: int, num_blocks: int, resample: nn.Module | None, time: int, residual: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [ResidualBlock(in_dim if i == 0 else dim, dim) for i in range(num_blocks)]
        )
        self.resample = resample
        self.dim, self.time, self.residual = dim, time, residual

    def forward(self, x: Tensor, state: ClipState, into: Tensor | None = None) -> Tensor:
        """The next frames of x, which is used up; written `into` a place for them if one is given (see Downsample)."""
        skip = x if self.residual else None
        x = residual_blocks(self._listed, x, state, can_overwrite=skip is None)
        if isinstance(self.resample, Upsample):
            return self.resample(x, state, skip)
        if self.resample is not None:
            x = self.resample(x, state, into)
        if skip is None:
            return x
        x += average_down(skip, self.dim, self.time, 1 if self.resample is None else 2, state)
        return x

    def parts(self, x: Tensor, state: ClipState) -> Iterator[Tensor]:
        """What `forward` returns, on the fast path a few frames at a time."""
        up = self.resample
        if isinstance(up, Upsample) and fused.serves(x, self.dim, up.conv.out_channels):
            skip = x if self.residual else None
            x = residual_blocks(self._listed, x, state, can_overwrite=skip is None)
            at_once = fused.at_once(up.conv.out_channels)
            return fused.upsampled(up.conv, up.time_conv, x, state, at_once, skip)
        x = self(x, state)
        return iter(x.split(fused.at_once(x.shape[1]), 2) if fused.serves(x) else [x])

    @property
    def _listed(self) -> list[ResidualBlock]:
        return cast(list[ResidualBlock], list(self.blocks))


class Encoder(nn.Module):
    """Pixels [B, 3 patch^2, T, H, W] to latent moments [B, 2 z, T', H / 8, W / 8]."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dims, last = config.encoder_dims, len(config.dim_mult) - 1
        self.conv_in = CausalConv3d(3 * config.patch_size**2, dims[0], 3)
        self.levels = nn.ModuleList()
        for i in range(last + 1):
            temporal = i < last and config.temporal_downsample[i]
            resample = Downsample(dims[i + 1], temporal) if i < last else None
            self.levels.append(
                Level(dims[i], dims[i + 1], config.num_res_blocks, resample, 1 + temporal, config.residual)
            )
        self.middle = Middle(dims[-1])
        self.head = Head(dims[-1], 2 * config.z_dim)

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        finest, *coarser = cast(list[Level], list(self.levels))
        if fused.serves(x) and finest.resample is not None and finest.time == 1:
            batch, _, num_frames, height, width = x.shape
            halved = x.new_empty(batch, num_frames, height // 2, width // 2, finest.dim).movedim(-1, 1)
            at_once = fused.at_once(finest.dim)
            for part, into in zip(x.split(at_once, 2), halved.split(at_once, 2), strict=True):
                finest(self.conv_in(part, state), state, into)
            x = halved
        else:
            x = finest(self.conv_in(x, state), state)
        for layer in (*coarser, self.middle):
            x = layer(x, state)
        return self.head(x, state)


class Decoder(nn.Module):
    """Latents [B, z, T, H, W] to pixels [B, 3 patch^2, T', 8 H, 8 W]."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dims, last = config.decoder_dims, len(config.dim_mult) - 1
        self.conv_in = CausalConv3d(config.z_dim, dims[0], 3)
        self.middle = Middle(dims[0])
        self.levels = nn.ModuleList()
        for i in range(last + 1):
            temporal = i < last and config.temporal_downsample[last - 1 - i]
            # Wan 2.1 halves the width in the upsampling convolution, 2.2 in the next level's first block.
            width = dims[i + 1] if config.residual else dims[i + 1] // 2
            resample = Upsample(dims[i + 1], width, temporal) if i < last else None
            in_dim = dims[i] if config.residual or i == 0 else dims[i] // 2
            residual = config.residual and i < last
            self.levels.append(
                Level(in_dim, dims[i + 1], config.num_res_blocks + 1, resample, 1 + temporal, residual)
            )
        self.head = Head(dims[-1], 3 * config.output_patch**2)

    def forward(self, z: Tensor, state: ClipState) -> Tensor:
        x = self.conv_in(z, state)
        *coarser, finest = cast(list[Level], list(self.levels))
        for layer in (self.middle, *coarser[:-2]):
            x = layer(x, state)
        parts = _in_parts(coarser[-2:], x, state)
        del x  # here and below: what was read must not be kept until all is done that comes of it
        frames = []
        for part in parts:
            frames.append(self.head(finest(part, state), state))
            del part
        return joined(frames, 2)


def _in_parts(levels: list[Level], x: Tensor, state: ClipState) -> Iterator[Tensor]:
    """x through the levels, on the fast path a few frames at a time."""
    if not levels:
        yield x
        return
    first, *rest = levels
    parts = first.parts(x, state)
    del x
    for part in parts:
        further = _in_parts(rest, part, state)
        del part
        yield from further


class WanVAE(nn.Module):
    """Encoder and decoder of one Wan VAE; weights only, all that a clip remembers is in its Stream."""

    def __init__(self, config: WanConfig, name: str = "Wan VAE") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = CausalConv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.quant_conv.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.quant_conv.weight.device

    def channels_last(self) -> WanVAE:
        """Lay the kernels out as the pictures lie in memory, which is faster everywhere; returns itself."""
        for parameter in self.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
            elif parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def encode(self, x: Tensor, state: ClipState) -> Tensor:
        """The next frames [B, 3, T, h, W] in [-1, 1] to raw latents [B, z, T', h', W'] (the mean).

        T is 1 + 4 k for the clip's first call and 4 k for later ones.
        """
        moments = self.quant_conv(self.encoder(patchify(x, self.config.patch_size), state), state)
        state.first = False
        return moments.chunk(2, 1)[0]

    def decode(self, z: Tensor, state: ClipState) -> Tensor:
        """The next raw latents [B, z, T, h, W] to frames [B, 3, T', h', W'] in [-1, 1].

        T' is 1 + 4 (T - 1) for the clip's first call and 4 T for later ones.
        """
        x = self.decoder(self.post_quant_conv(z, state), state)
        state.first = False
        return unpatchify(x, self.config.output_patch).clamp(-1, 1)
