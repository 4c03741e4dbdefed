"""FastVAE: the Wan VAE's weights on the fast schedule, for GPUs that the kernels support.

The layers compute what `model/` says. Different is where frames lie (see `kernels/padded_frames.py`), which kernels
make them, and that the layers at the largest scales take a few frames at a time, which to them is one more chunking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from wanvae_app.config import WanConfig
from wanvae_app.fast import layers
from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.fast.cuda_graph import GraphCoder
from wanvae_app.kernels import pixels
from wanvae_app.kernels.packed_weights import PackedWeights
from wanvae_app.kernels.padded_frames import SlotTables
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import Attention, Downsample, ResidualBlock, Upsample, average_down
from wanvae_app.model.vae import Decoder, Encoder, Level, Middle, WanVAE
from wanvae_app.parallel.shard import WHOLE, Shard, joined


class FastEncoder(Encoder):
    """The encoder on the fast schedule, for a batch of 1."""

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        if len(x) > 1:
            return super().forward(x, state)
        assert isinstance(state, FastClipState)
        finest, *coarser = cast(list[Level], list(self.levels))
        if isinstance(finest.resample, Downsample) and finest.resample.time_conv is None:
            x = self._finest(finest, x, state)
        else:
            x = _level(finest, layers.causal_conv(self.conv_in, x, state), state)
        for level in coarser:
            x = _level(level, x, state)
        return layers.head(self.head, _middle(self.middle, x, state), state)

    def _finest(self, level: Level, x: Tensor, state: FastClipState) -> Tensor:
        """The first convolution and the first level, a few frames at a time."""
        batch, _, num_frames, height, width = x.shape
        halved = x.new_empty(batch, num_frames, height // 2, width // 2, level.dim).movedim(-1, 1)
        at_once = layers.frames_at_once(level.dim)
        for part, out in zip(x.split(at_once, 2), halved.split(at_once, 2), strict=True):
            _level(level, layers.causal_conv(self.conv_in, part, state), state, out)
        return halved


class FastDecoder(Decoder):
    """The decoder on the fast schedule, for a batch of 1."""

    def forward(self, z: Tensor, state: ClipState) -> Tensor:
        if len(z) > 1:
            return super().forward(z, state)
        assert isinstance(state, FastClipState)
        x = layers.causal_conv(self.conv_in, z, state)
        *coarser, finest = cast(list[Level], list(self.levels))
        x = _middle(self.middle, x, state)
        for level in coarser[:-2]:
            x = _level(level, x, state)
        parts = _in_parts(coarser[-2:], x, state)
        del x  # here and below: what was read must not be kept until all is done that comes of it
        frames = []
        for part in parts:
            frames.append(layers.head(self.head, _level(finest, part, state), state))
            del part
        return joined(frames, 2)


class FastVAE(WanVAE):
    """A Wan VAE whose clips take the fast path, with the same `state_dict`.

    `hopper` says whether the kernels in CUDA C++ run, which need a Hopper GPU. What the last clip took stays allocated
    for the next of its size, with its steps recorded as CUDA graphs, until another one comes or `release` is called.
    """

    encoder_class = FastEncoder
    decoder_class = FastDecoder
    default_chunk = 2  # coarse layers make more frames together at less cost

    def __init__(self, config: WanConfig, name: str = "Wan VAE", hopper: bool = True) -> None:
        super().__init__(config, name)
        self.hopper = hopper
        self._packed = PackedWeights()
        self._tables: SlotTables | None = None
        self._idle: GraphCoder | None = None

    def new_state(self, shard: Shard = WHOLE) -> FastClipState:
        if self._tables is None or self._tables.device != self.device:
            self._tables = SlotTables(self.device)
        return FastClipState(self._packed, self._tables, self.hopper, shard)

    def to_uint8(self, frames: Tensor) -> Tensor:
        if len(frames) > 1:
            return super().to_uint8(frames)
        return pixels.to_uint8(frames[0].permute(1, 2, 3, 0).contiguous())

    @contextmanager
    def clip(
        self, kind: str, shape: Sequence[int], shard: Shard = WHOLE
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        key = self._key(kind, shape, shard)
        coder, self._idle = self._idle, None
        if coder is None or coder.key != key:
            del coder  # its memory is for this clip
            code = self.decode if kind == "decode" else self.encode
            coder = GraphCoder(code, self.new_state(shard), key, self.device)
        else:
            coder.restart(shard)
        try:
            yield coder
        except GeneratorExit:  # the clip was long enough
            self._keep(coder)
            raise
        self._keep(coder)

    def keeps_memory_for(self, kind: str, shape: Sequence[int], shard: Shard, longest: int) -> bool:
        coder = self._idle
        if coder is not None and coder.key == self._key(kind, shape, shard) and coder.longest >= longest:
            return True
        self.release()
        return False

    def release(self) -> None:
        self._idle = None

    def _keep(self, coder: GraphCoder) -> None:
        if coder.records:
            self._idle = coder

    def _key(self, kind: str, shape: Sequence[int], shard: Shard) -> tuple[Any, ...]:
        """What clips have in common that can go on with each other's coder."""
        weight = self.quant_conv.weight
        return kind, shard.dim, shard.bounds, shard.rank, tuple(shape), weight.dtype, weight.data_ptr()


def _level(level: Level, x: Tensor, state: FastClipState, out: Tensor | None = None) -> Tensor:
    """The next frames of x, which is used up; into `out` if that is given (not where frames are halved in time)."""
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


def _level_in_parts(level: Level, x: Tensor, state: FastClipState) -> Iterator[Tensor]:
    """What `_level` returns, a few frames at a time."""
    if not isinstance(level.resample, Upsample):
        x = _level(level, x, state)
        return iter(x.split(layers.frames_at_once(x.shape[1]), 2))
    skip = x if level.residual else None
    x = layers.residual_blocks(_blocks(level.blocks), x, state, can_overwrite=skip is None)
    at_once = layers.frames_at_once(level.resample.conv.out_channels)
    return layers.upsample(level.resample, x, state, at_once, skip)


def _in_parts(levels: list[Level], x: Tensor, state: FastClipState) -> Iterator[Tensor]:
    """x through several levels, a few frames at a time."""
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
