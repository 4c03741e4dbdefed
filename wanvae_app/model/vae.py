"""The Wan VAE, 2.1 and 2.2: one definition for one rank and many, whole clips and chunks.

Shapes are those of `layers.py`; z is the number of the latent's channels, T' and so on are the sizes of a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from wanvae_app.channels_last import cat_channels_last
from wanvae_app.config import WanConfig
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import (
    Attention,
    CausalConv3d,
    Downsample,
    PixelNorm,
    ResidualBlock,
    Upsample,
    average_down,
)
from wanvae_app.model.pixels import patchify, to_uint8, unpatchify
from wanvae_app.parallel.shard import WHOLE, Shard

# A level takes so many frames at a time as make no larger tensor than this, or one. Two 720x1280 frames of Wan 2.1's
# finest level have 338 MiB.
PART_BYTES = 384 << 20


class Head(nn.Module):
    """Norm, SiLU and a convolution: the last layers of encoder and decoder."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = PixelNorm(in_dim)
        self.conv = CausalConv3d(in_dim, out_dim, 3)

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        return self.conv.convolve(self.norm(x), state, silu=True)


class Middle(nn.Sequential):
    """Attention between two residual blocks, at the latent's scale."""

    def __init__(self, dim: int) -> None:
        super().__init__(ResidualBlock(dim, dim), Attention(dim), ResidualBlock(dim, dim))

    def forward(self, x: Tensor, state: ClipState) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, state)
        return x


class Level(nn.Module):
    """Residual blocks at one scale, then the step to the next scale, except after the last level.

    `resample` is a Downsample, an Upsample or None, and `time` by how much it changes the number of frames. With
    `residual`, Wan 2.2's shortcut around the whole level is added.

    Where pictures are large, a level takes a few frames at a time (`in_parts`). That is one more chunking, which
    changes no result and saves memory.
    """

    def __init__(
        self, in_dim: int, dim: int, num_blocks: int, resample: nn.Module | None, time: int, residual: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [ResidualBlock(in_dim if i == 0 else dim, dim) for i in range(num_blocks)]
        )
        self.resample = resample
        self.dim, self.time, self.residual = dim, time, residual
        # Numbers of its largest tensor per pixel of its input.
        self.widest = max(in_dim, dim)
        if isinstance(resample, Upsample):
            self.widest = max(self.widest, 4 * time * resample.conv.out_channels)

    def in_parts(self, inputs: Iterable[Tensor], state: ClipState) -> Iterator[Tensor]:
        """Apply the level to each of the inputs, and yield the results, a few frames at a time."""
        for x in inputs:
            parts = list(x.split(self.frames_at_once(x, state), 2))
            del x
            while parts:
                # Not self(...), which would keep the part in memory until the level's end.
                yield self.forward(parts.pop(0), state)

    def frames_at_once(self, x: Tensor, state: ClipState) -> int:
        """Return how many of the frames x [B C T H W], or of any of that size, it takes at a time.

        The number is the same on all ranks.
        """
        num_bytes = state.largest_share(x[:, 0, 0].numel()) * self.widest * x.element_size()
        count = max(PART_BYTES // num_bytes, 1)
        if isinstance(self.resample, Downsample) and self.time > 1:  # it makes one frame of two
            return x.shape[2] if state.first else count + count % 2
        return count

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        skip = x if self.residual else None
        for block in self.blocks:
            x = block(x, state)
        if isinstance(self.resample, Upsample):
            enlarged: Tensor = self.resample(x, state, skip)
            return enlarged
        if self.resample is not None:
            x = self.resample(x, state)
        if skip is not None:
            x += average_down(skip, self.dim, self.time, 1 if self.resample is None else 2, state)
        return x


class Encoder(nn.Module):
    """Encodes patches of pixels [B, C patch^2, T, H, W] to mean and log variance of latents [B, 2 z, T', H/8, W/8]."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dims, last = config.encoder_dims, len(config.dim_mult) - 1
        self.conv_in = CausalConv3d(config.in_channels * config.patch_size**2, dims[0], 3)
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
        parts = [
            finest.forward(self.conv_in(part, state), state)
            for part in x.split(finest.frames_at_once(x, state), 2)
        ]
        x = cat_channels_last(parts, 2)
        for level in coarser:
            x = cat_channels_last(list(level.in_parts([x], state)), 2)
        for layer in (self.middle, self.head):
            x = layer(x, state)
        return x


class Decoder(nn.Module):
    """Decodes latents [B, z, T, H, W] to patches of pixels [B, C patch^2, T', 8 H, 8 W]."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dims, last = config.decoder_dims, len(config.dim_mult) - 1
        self.conv_in = CausalConv3d(config.z_dim, dims[0], 3)
        self.middle = Middle(dims[0])
        self.levels = nn.ModuleList()
        for i in range(last + 1):
            temporal = i < last and config.temporal_downsample[last - 1 - i]
            resample = Upsample(dims[i + 1], config.upsampled_dims[i], temporal) if i < last else None
            in_dim = config.upsampled_dims[i - 1] if i else dims[0]
            residual = config.residual and i < last
            self.levels.append(
                Level(in_dim, dims[i + 1], config.num_res_blocks + 1, resample, 1 + temporal, residual)
            )
        self.head = Head(dims[-1], config.out_channels * config.output_patch**2)

    def forward(self, z: Tensor, state: ClipState) -> Tensor:
        parts: Iterable[Tensor] = [self.middle(self.conv_in(z, state), state)]
        for level in cast(list[Level], list(self.levels)):
            parts = level.in_parts(parts, state)
        frames = []
        for part in parts:  # each passes all levels before the next one is begun
            frames.append(self.head(part, state))
            del part  # frees it before there is another
            state.first = False  # the next part is to the levels what a later chunk is
        return cat_channels_last(frames, 2)


class WanVAE(nn.Module):
    """Encoder and decoder of one Wan VAE: weights alone. What a clip remembers is in its ClipState.

    Latents are raw: as the encoder makes them, not normalised by the mean and deviation in `config`. `config` tells
    how many channels C a pixel has, and whether one of encoder and decoder is missing.
    """

    encoder_class: type[Encoder] = Encoder
    decoder_class: type[Decoder] = Decoder
    default_chunk = 1  # latent frames per chunk unless asked otherwise: with one, frames are seen soonest
    path: CodePath = PLAIN  # which code codes, and why

    def __init__(self, config: WanConfig, name: str = "Wan VAE") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.notes: tuple[str, ...] = ()  # what a user should know of its weights, in sentences
        if config.has_encoder:
            self.encoder = self.encoder_class(config)
            self.quant_conv = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        if config.has_decoder:
            self.post_quant_conv = CausalConv3d(config.z_dim, config.z_dim, 1)
            self.decoder = self.decoder_class(config)

    @property
    def first_weight(self) -> Tensor:
        """One of the weights, the same at every call."""
        return (self.quant_conv if self.config.has_encoder else self.post_quant_conv).weight

    @property
    def dtype(self) -> torch.dtype:
        return self.first_weight.dtype

    @property
    def device(self) -> torch.device:
        return self.first_weight.device

    def channels_last(self) -> WanVAE:
        """Lay weights out in memory as pictures lie, which makes convolutions faster; return this VAE."""
        for parameter in self.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
            elif parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def new_state(self, shard: Shard = WHOLE) -> ClipState:
        """Return the state of a clip at its start, for this rank's slab of the picture."""
        return ClipState(shard)

    def encode(self, x: Tensor, state: ClipState) -> Tensor:
        """Encode a clip's next frames [B C T H W] in [-1, 1] to raw latents [B z T' H' W'], the distribution's mean.

        In the clip's first call T is 1 + 4 k and T' is 1 + k; in later ones T is 4 k and T' is k.
        """
        moments: Tensor = self.quant_conv(self.encoder(patchify(x, self.config.patch_size), state), state)
        state.end_chunk()
        return moments.chunk(2, 1)[0]

    def decode(self, z: Tensor, state: ClipState) -> Tensor:
        """Decode a clip's next raw latents [B z T H W] to frames [B C T' H' W'] in [-1, 1].

        T' is 1 + 4 (T - 1) in the clip's first call, and 4 T in later ones. What is not finite, infinity too, is NaN.
        """
        x: Tensor = self.decoder(self.post_quant_conv(z, state), state)
        state.end_chunk()
        x = unpatchify(x, self.config.output_patch)
        return x.clamp(-1, 1).add_(x.mul(0))  # clamp would make a 1 of infinity, and infinity times 0 is NaN

    def to_uint8(self, frames: Tensor) -> Tensor:
        """Convert decoded frames [1 C T H W] in [-1, 1] to pixels [T H W C] in 0..255, rounded to nearest."""
        return to_uint8(frames)

    @contextmanager
    def clip(
        self, phase: str, shape: Sequence[int], shard: Shard = WHOLE
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield a function that codes a clip's next chunk, with the clip's state inside.

        `phase` is "decode" or "encode"; `shape` is B C T H W of this rank's part of the first chunk.
        """
        with self._plain_clip(phase, shard) as code:
            yield code

    @contextmanager
    def _plain_clip(self, phase: str, shard: Shard) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield what `clip` does, on the plain path."""
        state = ClipState(shard)
        code = self.decode if phase == "decode" else self.encode
        yield lambda x: code(x, state)

    def take_path(self, path: CodePath) -> None:
        """Code the next clips on this path: the VAE's own, one that takes fewer frames at once, or the plain one."""

    def keeps_memory_for(self, phase: str, shape: Sequence[int], shard: Shard, longest: int) -> bool:
        """Whether the last clip left enough memory for this one; if not, free what it left.

        `longest` is the number of frames in the clip's longest chunk; the other arguments are those of `clip`.
        """
        return False

    def release(self) -> None:
        """Free the memory that the last clip left for the next one."""
