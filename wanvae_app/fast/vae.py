"""FastVAE: the Wan VAE on the fast schedule, for GPUs that the kernels support.

The layers compute what `model/` computes, with the same weights. Three things differ: frames lie where convolutions
read them (see `kernels/padded_frames.py`), kernels make them, and the layers at the largest scales take a few frames
at a time, which saves memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from wanvae_app.channels_last import cat_channels_last
from wanvae_app.config import WanConfig
from wanvae_app.fast import layers
from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.fast.convolve import frames_at_once
from wanvae_app.fast.cuda_graph import GraphCoder
from wanvae_app.kernels import pixels
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.kernels.packed_weights import PackedWeights
from wanvae_app.kernels.padded_frames import SlotTables
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import Attention, Downsample, ResidualBlock, Upsample, average_down
from wanvae_app.model.vae import Decoder, Encoder, Level, Middle, WanVAE
from wanvae_app.parallel.shard import WHOLE, Shard


class FastEncoder(Encoder):
    """The encoder on the fast schedule, for one clip in a `FastClipState`. All else takes the plain path."""

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        if len(x) > 1 or not isinstance(state, FastClipState):
            return super().forward(x, state)
        finest, *coarser = cast(list[Level], list(self.levels))
        if isinstance(finest.resample, Downsample) and finest.resample.time_conv is None:
            x = self._finest(finest, x, state)
        else:
            x = _level(finest, layers.causal_conv(self.conv_in, x, state), state)
        for level in coarser:
            x = cat_channels_last([_level(level, part, state) for part in _parts(level, x, state)], 2)
        return layers.head(self.head, _middle(self.middle, x, state), state)

    def _finest(self, level: Level, x: Tensor, state: FastClipState) -> Tensor:
        """Apply the first convolution and the finest level to x, a few frames at a time."""
        batch, _, num_frames, height, width = x.shape
        halved = x.new_empty(batch, num_frames, height // 2, width // 2, level.dim).movedim(-1, 1)
        at_once = frames_at_once(state, level.dim)
        for part, out in zip(x.split(at_once, 2), halved.split(at_once, 2), strict=True):
            _level(level, layers.causal_conv(self.conv_in, part, state), state, out)
        return halved


class FastDecoder(Decoder):
    """The decoder on the fast schedule, for one clip in a `FastClipState`. All else takes the plain path."""

    def forward(self, z: Tensor, state: ClipState) -> Tensor:
        if len(z) > 1 or not isinstance(state, FastClipState):
            return super().forward(z, state)
        x = layers.causal_conv(self.conv_in, z, state)
        *coarser, finest = cast(list[Level], list(self.levels))
        x = _middle(self.middle, x, state)
        for level in coarser[:-2]:
            x = _level(level, x, state)
        parts = _in_parts(coarser[-2:], x, state)
        del x  # here and below: an input must not stay in memory until all that comes of it is done
        frames = []
        for part in parts:
            frames.append(layers.head(self.head, _level(finest, part, state), state))
            del part
        return cat_channels_last(frames, 2)


class FastVAE(WanVAE):
    """A Wan VAE whose clips take the fast path. It has the `state_dict` of a WanVAE.

    The last clip's memory and its CUDA graphs are kept for the next clip of the same size, until a clip of another
    size comes or `release` is called.
    """

    encoder_class = FastEncoder
    decoder_class = FastDecoder
    default_chunk = 2  # layers at small scales compute two frames together faster than one after the other

    def __init__(
        self, config: WanConfig, name: str = "Wan VAE", kernels: KernelSet = KernelSet.HOPPER
    ) -> None:
        super().__init__(config, name)
        self.kernels = kernels
        self.path = CodePath(kernels, "asked for")
        self._packed = PackedWeights()
        self._tables: SlotTables | None = None
        self._idle: GraphCoder | None = None
        self._clips_path = self.path

    def take_path(self, path: CodePath) -> None:
        assert path.kernels in (None, self.kernels), path
        if path.kernels is None:
            self.release()
            self._packed = PackedWeights()
        self._clips_path = path

    def new_state(self, shard: Shard = WHOLE) -> FastClipState:
        if self._tables is None or self._tables.device != self.device:
            self._tables = SlotTables(self.device)
        at_once = self._clips_path.frames_at_once
        return FastClipState(self._packed, self._tables, self.kernels, shard, at_once)

    def to_uint8(self, frames: Tensor) -> Tensor:
        if len(frames) > 1:
            return super().to_uint8(frames)
        return pixels.to_uint8(frames[0].permute(1, 2, 3, 0).contiguous())

    @contextmanager
    def clip(
        self, phase: str, shape: Sequence[int], shard: Shard = WHOLE
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        if self._clips_path.kernels is None:
            with self._plain_clip(phase, shard) as plain_code:
                yield plain_code
            return
        key = self._key(phase, shape, shard)
        coder, self._idle = self._idle, None
        if coder is None or coder.key != key:
            del coder  # frees its memory for this clip
            code = self.decode if phase == "decode" else self.encode
            coder = GraphCoder(code, self.new_state(shard), key, self.device)
        else:
            coder.restart(shard)
        try:
            yield coder
        except GeneratorExit:  # the caller closes its generator when it has what it needs
            self._keep(coder)
            raise
        self._keep(coder)

    def keeps_memory_for(self, phase: str, shape: Sequence[int], shard: Shard, longest: int) -> bool:
        coder = self._idle
        if coder is not None and coder.key == self._key(phase, shape, shard) and coder.longest >= longest:
            return True
        self.release()
        return False

    def release(self) -> None:
        self._idle = None

    def _keep(self, coder: GraphCoder) -> None:
        if coder.records:
            self._idle = coder

    def _key(self, phase: str, shape: Sequence[int], shard: Shard) -> tuple[Any, ...]:
        """Return what is equal for clips that can use one coder."""
        weight = self.first_weight
        weights = weight.dtype, weight.data_ptr()
        at_once = self._clips_path.frames_at_once
        return phase, shard.dim, shard.bounds, shard.rank, tuple(shape), weights, at_once


def _level(level: Level, x: Tensor, state: FastClipState, out: Tensor | None = None) -> Tensor:
    """Apply a level to the next frames x, which it may overwrite. With `out`, write the result there.

    A level that halves the number of frames takes no `out`.
    """
    skip = x if level.residual else None
    x = layers.residual_blocks(_blocks(level.blocks), x, state, can_overwrite=skip is None)
    resample = level.resample
    if isinstance(resample, Upsample):
        (enlarged,) = layers.upsample(resample, x, state, skip=skip)
        return enlarged
    if isinstance(resample, Downsample):
        if out is None:
            x = resample(x, state)
        else:
            resample.halve(x, state, out)
            x = out
    if skip is not None:
        x += average_down(skip, level.dim, level.time, 1 if resample is None else 2, state)
    return x


def _parts(level: Level, x: Tensor, state: FastClipState) -> Sequence[Tensor]:
    """Return the frames that a level takes at a time: as on the plain path, but by fours, for the kernels."""
    at_once = level.frames_at_once(x, state)
    return (x,) if at_once >= x.shape[2] else x.split(max(at_once - at_once % 4, 4), 2)


def _level_in_parts(level: Level, x: Tensor, state: FastClipState) -> Iterator[Tensor]:
    """Yield the result of `_level`, a few frames at a time."""
    if not isinstance(level.resample, Upsample):
        x = _level(level, x, state)
        return iter(x.split(frames_at_once(state, x.shape[1]), 2))
    skip = x if level.residual else None
    x = layers.residual_blocks(_blocks(level.blocks), x, state, can_overwrite=skip is None)
    at_once = frames_at_once(state, level.resample.conv.out_channels)
    return layers.upsample(level.resample, x, state, at_once, skip)


def _in_parts(levels: list[Level], x: Tensor, state: FastClipState) -> Iterator[Tensor]:
    """Apply several levels to x, and yield the result a few frames at a time."""
    if not levels:
        yield x
        return
    first, *rest = levels
    parts = _level_in_parts(first, x, state)
    del x
    for part in parts:
        further = _in_parts(rest, part, state)
        del part
        yield from further


def _middle(middle: Middle, x: Tensor, state: FastClipState) -> Tensor:
    before, attention, after = middle
    assert isinstance(before, ResidualBlock) and isinstance(attention, Attention)
    assert isinstance(after, ResidualBlock)
    x = layers.residual_blocks([before], x, state, can_overwrite=True)
    x = layers.attention(attention, x, state)
    return layers.residual_blocks([after], x, state, can_overwrite=True)


def _blocks(blocks: nn.ModuleList) -> list[ResidualBlock]:
    return cast(list[ResidualBlock], list(blocks))
