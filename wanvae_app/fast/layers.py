"""The layers on the fast path: kernels that convolve padded frames.

Each function computes what a layer in `model/layers.py` or `model/vae.py` computes, and takes that layer for its
weights. Norm and SiLU are written straight into the padded frames that the next convolution reads. Past frames stay
there from chunk to chunk.

Between layers x is [1 C T H W], channels last; H and W are those of this rank's slab. Kernels take and return the same
memory as [T, H, W, C]. The batch is 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.fast.conv_inputs import ConvInputs
from wanvae_app.fast.convolve import convolve_enlarged, convolve_in_time
from wanvae_app.fast.exchange import activate
from wanvae_app.kernels import attention as attention_kernel
from wanvae_app.kernels import norm as norm_kernel
from wanvae_app.kernels.head import head_products, sum_head_products
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.kernels.packed_weights import bias_of
from wanvae_app.kernels.shortcut import Shortcut
from wanvae_app.model.layers import Attention, PixelNorm, ResidualBlock, Upsample
from wanvae_app.model.vae import Head

PRODUCT_BYTES = 24 << 20  # of the head's products that are made at a time: a GPU's L2 cache holds them
MAX_HEAD_CHANNELS = 16  # a head with more output channels is faster with the direct kernel than with products


def residual_blocks(
    blocks: Sequence[ResidualBlock], x: Tensor, state: FastClipState, can_overwrite: bool = False
) -> Tensor:
    """Apply residual blocks at one scale, one after another, to x [1 C T H W].

    A block adds its result to its input in place. The first block does that only with `can_overwrite`, or if its
    shortcut has made a new tensor: the caller may need x again.
    """
    convs = [pair for block in blocks for pair in ((block.norm1, block.conv1), (block.norm2, block.conv2))]
    inputs = ConvInputs(convs, x, state)
    pixels = _rows(x)
    for block in blocks:
        shortcut = block.shortcut
        inputs.write(block.norm1, block.conv1, pixels)
        inputs.convolve(block.conv1, then=(block.norm2, block.conv2))
        if shortcut is not None:
            pixels, can_overwrite = F.linear(pixels, shortcut.weight.flatten(1), shortcut.bias), True
        pixels = inputs.convolve(block.conv2, residual=pixels, in_place=can_overwrite)
        can_overwrite = True
    return _picture(pixels)


def causal_conv(conv: nn.Conv3d, x: Tensor, state: FastClipState) -> Tensor:
    """Apply a 3x3x3 convolution to x [1 C T H W]. Zeros fill the channels up to a multiple of eight."""
    spare = -x.shape[1] % 8
    inputs = ConvInputs([(None, conv)], x, state, spare)
    inputs.write(None, conv, _rows(x))
    return _picture(inputs.convolve(conv))


def attention(layer: Attention, x: Tensor, state: FastClipState) -> Tensor:
    """Add attention among each frame's pixels to x [1 C T H W]."""
    q, k, v = layer.queries_keys_values(x, state)
    # Without descriptors PyTorch's kernel is as fast: as for Ampere it took 4.8 ms on an H100, and ours 4.7 ms.
    ours = state.kernels is not KernelSet.POINTERS and attention_kernel.is_supported(x.shape[1])
    attend = attention_kernel.attend if ours else layer.attend
    return x + layer.project(attend(q, k, v), x)


def head(layer: Head, x: Tensor, state: FastClipState) -> Tensor:
    """Apply norm, SiLU and the last convolution to x [1 C T H W]."""
    if layer.conv.out_channels > MAX_HEAD_CHANNELS:
        return causal_conv(layer.conv, F.silu(layer.norm(x)), state)
    return _head_by_products(layer.norm, layer.conv, x, state)


def _head_by_products(norm: PixelNorm, conv: nn.Conv3d, x: Tensor, state: FastClipState) -> Tensor:
    """Return conv(silu(norm(x))) for a convolution to a few channels: see `kernels/head.py`."""
    _, c, num_frames, height, width = x.shape
    dtype = torch.float16 if state.uses_fp16(norm, conv) else x.dtype
    pool = state.pool(x, c)
    pool.reserve(0, num_frames)
    frames = pool.view_as(dtype)
    slots = pool.take(num_frames)
    activate(_rows(x), norm.gamma, frames, slots, state.shard)
    taps = state.packed.get(  # [kt kh kw N, C]
        conv, lambda w: w.permute(2, 3, 4, 0, 1).flatten(0, 3).to(dtype), f"taps {dtype}"
    )
    n = conv.out_channels
    out = torch.empty(num_frames, height, width, n, dtype=x.dtype, device=x.device)
    due = state.past_frames(
        conv, torch.empty(1, n, 0, height, width, dtype=torch.float32, device=x.device), 2
    )
    due = due[0].movedim(0, -1)
    num_rows = max(PRODUCT_BYTES // (len(taps) * (width + 2) * dtype.itemsize), 1)
    for index in range(num_frames):  # in strips of rows, because products are larger than frames
        for begin in range(0, height, num_rows):
            end = min(begin + num_rows, height)
            products = head_products(
                taps, frames, slots[index : index + 1], begin, end, state.kernels is KernelSet.POINTERS
            )
            sum_head_products(products, bias_of(conv), due[:, begin:end], out[index, begin:end])
            del products  # before there are others
    pool.give_back(slots)
    return _picture(out)


def upsample(
    layer: Upsample, x: Tensor, state: FastClipState, at_once: int = 0, skip: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield frames of x [1 C T H W] at twice its height and width; the enlarged input of the convolution is never made.

    A temporal layer doubles the number of frames first, after the clip's first frame, and yields at most `at_once`
    frames at a time (0: all). `skip` [1 C' T H W] is added as by `model.layers.add_duplicate_up`.
    """
    conv, time_conv = layer.conv, layer.time_conv
    at_once = at_once or 2 * x.shape[2]
    pixels = _rows(x)
    pool = state.pool(x, x.shape[1])
    frames = pool.view_as(x.dtype)
    num_alone = len(pixels) if time_conv is None else int(state.first)
    num_new = max(len(pixels), 2)  # at least two, because chunks after the clip's first have more
    if time_conv is None:
        pool.reserve(0, num_new)
    else:
        pool.reserve(0 if pool.has_past(time_conv) else 2, num_new + min(at_once, 2 * num_new))
        pool.past(time_conv)
    ready, new = pool.take(num_alone), pool.take(len(pixels) - num_alone)
    for slots, some in ((ready, pixels[:num_alone]), (new, pixels[num_alone:])):
        if slots:
            norm_kernel.activate(some, None, frames, slots)
    shortcut = None
    if skip is not None:
        time = 1 if time_conv is None else 2
        # The clip's first frame becomes only the last one of its copies in time.
        shortcut = Shortcut(_rows(skip), time, time - 1 if state.first else 0)
    del x, pixels, some, skip  # frees this memory before the last frame is yielded

    def enlarge() -> Tensor:
        nonlocal shortcut
        state.shard.fill_halo(frames.data, frames.table(ready))
        out = convolve_enlarged(conv, state, frames, ready, shortcut)
        pool.give_back(ready)
        if shortcut is not None:
            shortcut = shortcut.after(len(ready))
        return _picture(out)

    if time_conv is not None and new:
        # The temporal convolution never sees the clip's first frame: later frames have zeros in its place.
        seen, step = pool.past(time_conv) + new, at_once // 2
        for start in range(0, len(new), step):
            window = seen[start : start + step + 2]
            count = 2 * (len(window) - 2)
            if ready and len(ready) + count > at_once:
                yield enlarge()
                ready = ()
            doubled = pool.take(count)
            convolve_in_time(time_conv, state, frames, window, doubled)
            ready += doubled
        pool.advance(time_conv, seen)
    yield enlarge()


def _rows(x: Tensor) -> Tensor:
    """Return x [1 C T H W] as contiguous [T, H, W, C]."""
    return x[0].movedim(0, -1).contiguous()


def _picture(x: Tensor) -> Tensor:
    """Return x [T, H, W, C] as [1 C T H W], which lies channels last."""
    return x[None].movedim(-1, 1)
