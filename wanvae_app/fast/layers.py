"""The fast path of the layers on Hopper GPUs and later: convolutions over padded frames.

Each function here has its plain equal in `layers.py`, which runs wherever `serves` says no: other devices, no
Triton, float32, batches. Norm and SiLU are written straight into the padded frames that the next convolution
reads; past frames stay there from chunk to chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanvae_app.fast.conv_inputs import ConvInputs, holds
from wanvae_app.kernels import launchers, upsample_conv, winograd
from wanvae_app.kernels.packed_weights import bias_of, folded, matrix_of, prepare
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.model.clip_state import ClipState

if TYPE_CHECKING:
    from wanvae_app.model.layers import PixelNorm, ResidualBlock


PRODUCTS = 24 << 20  # bytes of the last convolution's products at a time: a GPU's second cache holds them


def serves(x: Tensor, *channels: int) -> bool:
    """Whether the kernels take x [B C T H W] and layers of these widths."""
    return (
        launchers is not None
        and x.shape[0] == 1
        and not any(c % 8 for c in channels)
        and launchers.available(x)
    )


def at_once(channels: int) -> int:
    """How many frames layers so wide take at a time where the picture is largest and they keep the number of frames:
    to them it is one more chunking, and it needs less memory."""
    return max(winograd.choose(channels, 4), 2)


def runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a model of this dtype takes the fast path on this device."""
    return launchers is not None and launchers.available(torch.empty(0, dtype=dtype, device=device))


@contextmanager
def pretended(fast: bool) -> Iterator[None]:
    """Tensors without data take the fast path, or not: for who asks how much memory it needs."""
    if launchers is None:
        yield
        return
    before, launchers.elsewhere = launchers.elsewhere, fast
    try:
        yield
    finally:
        launchers.elsewhere = before


def blank(frames: PaddedFramePool, slots: tuple[int, ...]) -> None:
    """Zeros into these frames."""
    if launchers is not None and frames.data[0].nbytes % 4 == 0 and launchers.available(frames.data):
        launchers.blank(frames, slots)
    else:
        frames.data.index_fill_(0, frames.table(slots).long(), 0)


def attends(q: Tensor) -> bool:
    """Whether `launchers.attend` takes queries [frames, pixels, C]."""
    return launchers is not None and launchers.attends(q.shape[2]) and launchers.available(q)


def residual_blocks(
    blocks: Sequence[ResidualBlock], x: Tensor, state: ClipState, can_overwrite: bool = False
) -> Tensor:
    """The blocks one after another on x [1 C T H W], written over if it `can_overwrite` it: x is not needed any more.

    A block adds its result to what it was given, where that lies; the first one needs a place of its own, unless its
    shortcut makes one.
    """
    convs = [pair for block in blocks for pair in ((block.norm1, block.conv1), (block.norm2, block.conv2))]
    window = ConvInputs(convs, x, state)
    pixels = _rows(x)
    for block in blocks:
        shortcut = block.shortcut
        window.activate(block.norm1, block.conv1, pixels)
        window.convolve(block.conv1, then=(block.norm2, block.conv2))
        if shortcut is not None:
            pixels, can_overwrite = F.linear(pixels, shortcut.weight.flatten(1), shortcut.bias), True
        pixels, can_overwrite = window.convolve(block.conv2, residual=pixels, in_place=can_overwrite), True
    return _picture(pixels)


def causal_conv(conv: nn.Conv3d, x: Tensor, state: ClipState) -> Tensor:
    """conv of x [1 C T H W]; channels are filled up to a multiple of eight."""
    spare = -x.shape[1] % 8
    window = ConvInputs([(None, conv)], x, state, spare)
    window.activate(None, conv, _rows(x))
    matrix = (
        prepare(conv, lambda w: F.pad(matrix_of(w).unflatten(1, (27, -1)), (0, spare)).flatten(1))
        if spare
        else None
    )
    return _picture(window.convolve(conv, matrix=matrix))


def head(norm: PixelNorm, conv: nn.Conv3d, x: Tensor, state: ClipState) -> Tensor:
    """conv(silu(norm(x))) of x [1 C T H W], for a convolution to a few channels."""
    _, c, num_frames, height, width = x.shape
    dtype = torch.float16 if holds(norm, conv, x) else x.dtype
    pool = state.padded(x, c)
    pool.reserve(0, num_frames)
    frames = pool.view_as(dtype)
    slots = pool.take(num_frames)
    launchers.activate(_rows(x), norm.gamma, frames, slots, state.shard)
    matrix = prepare(conv, lambda w: w.permute(2, 3, 4, 0, 1).flatten(0, 3).to(dtype))  # kt kh kw N, C
    n = conv.out_channels
    out = torch.empty(num_frames, height, width, n, dtype=x.dtype, device=x.device)
    due = state.last(conv, torch.empty(1, n, 0, height, width, dtype=torch.float32, device=x.device), 2)
    due = due[0].movedim(0, -1)
    rows = max(PRODUCTS // (len(matrix) * (width + 2) * dtype.itemsize), 1)
    for index in range(num_frames):  # in strips: products are larger than frames
        for begin in range(0, height, rows):
            end = min(begin + rows, height)
            products = launchers.multiply(matrix, frames, slots[index : index + 1], begin, end)
            launchers.sum_shifted(products, bias_of(conv), due[:, begin:end], out[index, begin:end])
            del products  # before there are others
    pool.give_back(slots)
    return _picture(out)


def upsample(
    conv: nn.Conv2d, time_conv: nn.Conv3d | None, x: Tensor, state: ClipState, skip: Tensor | None = None
) -> Tensor:
    """conv of x [1 C T H W] enlarged to twice its height and width, without enlarging it.

    With time_conv, each frame has become two before, but for the clip's first. `skip` [1 C' T H W] is added as
    `layers.add_duplicate_up` does it.
    """
    (out,) = upsampled(conv, time_conv, x, state, 2 * x.shape[2], skip)
    return out


def upsampled(
    conv: nn.Conv2d,
    time_conv: nn.Conv3d | None,
    x: Tensor,
    state: ClipState,
    at_once: int,
    skip: Tensor | None = None,
) -> Iterator[Tensor]:
    """What `upsample` returns, with time_conv so many frames at a time."""
    pixels = _rows(x)
    pool = state.padded(x, x.shape[1])
    frames = pool.view_as(x.dtype)
    alone = len(pixels) if time_conv is None else int(state.first)
    most = max(len(pixels), 2)  # at least, because the chunks after the clip's first have more frames
    if time_conv is None:
        pool.reserve(0, most)
    else:
        pool.reserve(0 if pool.knows(time_conv) else 2, most + min(at_once, 2 * most))
        pool.past(time_conv)
    ready, new = pool.take(alone), pool.take(len(pixels) - alone)
    for slots, some in ((ready, pixels[:alone]), (new, pixels[alone:])):
        if slots:
            launchers.activate(some, None, frames, slots)
    shortcut = None
    if skip is not None:
        time = 1 if time_conv is None else 2
        # The clip's first frame stands alone: it has only the last of its copies in time.
        shortcut = launchers.Shortcut(_rows(skip), time, time - 1 if state.first else 0)
    del x, pixels, some, skip  # that memory need not wait for the last frame

    def enlarged() -> Tensor:
        nonlocal shortcut
        state.shard.fill_borders(frames.data, frames.table(ready))
        if upsample_conv.serves(frames.data, conv.out_channels, shortcut):
            out = upsample_conv.convolve(
                prepare(conv, upsample_conv.prepare, "enlarge"), bias_of(conv), frames, ready, shortcut
            )
        else:
            out = launchers.convolve(
                prepare(conv, folded), bias_of(conv), (1, 2, 2), frames, ready, up=2, shortcut=shortcut
            )
        pool.give_back(ready)
        if shortcut is not None:
            shortcut = shortcut.after(len(ready))
        return _picture(out)

    if time_conv is not None and new:
        # The clip's first frame is not even past: those after it see zeros in its place.
        window, step = pool.past(time_conv) + new, at_once // 2
        halves = list(zip(matrix_of(time_conv.weight).chunk(2), bias_of(time_conv).chunk(2), strict=True))
        for start in range(0, len(new), step):
            seen = window[start : start + step + 2]
            count = 2 * (len(seen) - 2)
            if ready and len(ready) + count > at_once:
                yield enlarged()
                ready = ()
            doubled = pool.take(count)
            for half, (matrix, bias) in enumerate(halves):
                launchers.convolve(matrix, bias, (3, 1, 1), frames, seen, into=(frames, doubled[half::2]))
            ready += doubled
        pool.advance(time_conv, window)
    yield enlarged()


def _rows(x: Tensor) -> Tensor:
    """x [1 C T H W] as [T, H, W, C], contiguous."""
    return x[0].movedim(0, -1).contiguous()


def _picture(x: Tensor) -> Tensor:
    return x[None].movedim(-1, 1)  # so that its strides are those of channels_last_3d
