"""Which kernel convolves padded frames, by the set of kernels, the shape and the dtype; with which packed weights.

| set | 3x3x3 behind a norm, fp16 | other 3x3x3, 3x1x1 | 3x3 of an enlarged picture |
|---|---|---|---|
| HOPPER | `winograd`: F(2, 3), F(4, 3) from 256 channels on | `direct_conv` | `upsample_conv` or `direct_conv` |
| DESCRIPTORS | `direct_conv`, not in fp16 | `direct_conv` | `direct_conv` |
| POINTERS | `mma_conv`: F(4, 3) for four frames, F(2, 3) for two | `mma_conv` | `mma_conv` |

- HOPPER: a tile that is transformed in shared memory serves all channels, so F(2, 3) moves fewer bytes than F(4, 3).
- DESCRIPTORS: Triton reads no tile at an offset from shared memory, so a transform costs more than it saves. Directly,
  bf16 is as fast as fp16.
- POINTERS: products limit these cards, so the algorithm with the fewest is chosen.
"""

from __future__ import annotations

from torch import Tensor, nn

from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.kernels import mma_conv, upsample_conv, winograd
from wanvae_app.kernels.direct_conv import direct_conv
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.kernels.mailbox import EarlyHalo
from wanvae_app.kernels.packed_weights import bias_of, fold_upsampling, matrix_of
from wanvae_app.kernels.padded_frames import PaddedFrames, Slots
from wanvae_app.kernels.shortcut import Shortcut
from wanvae_app.kernels.tiles import fits_one_tile

Into = tuple[PaddedFrames, Slots]


def choose_frames_per_tile(kernels: KernelSet, n: int, num_frames: int) -> int:
    """Return how many of `num_frames` frames of n channels, in fp16, are made together: 2, 4, or 0 for directly."""
    if kernels is KernelSet.POINTERS:
        return mma_conv.choose_frames_per_tile(num_frames)
    return winograd.choose_frames_per_tile(n, num_frames)


def frames_at_once(state: FastClipState, channels: int) -> int:
    """Return how many frames the layers at the largest scales take at a time, where they are so many channels wide.

    It saves memory. For the layers it is one more chunking, which changes no result.
    """
    return min(max(choose_frames_per_tile(state.kernels, channels, 4), 2), state.frames_at_once)


def norms_result(kernels: KernelSet, frames_per_tile: int, n: int) -> bool:
    """Return whether the kernel that makes n channels can take their norm and write the next convolution's input."""
    if kernels is KernelSet.POINTERS:
        return False
    return winograd.norms_in_place(n) if frames_per_tile else fits_one_tile(n)


def convolve(
    conv: nn.Conv3d,
    state: FastClipState,
    frames_per_tile: int,
    frames: PaddedFrames,
    past: Slots,
    new: Slots,
    num_frames: int,
    residual: Tensor | None = None,
    gamma: Tensor | None = None,
    into: Into | None = None,
    in_place: bool = False,
    early_halo: EarlyHalo | None = None,
) -> Tensor:
    """Convolve 3x3x3: return `num_frames` frames [T, H, W, N], behind two past frames in slots `past`.

    `new` are the slots of the new frames; for four frames per tile they begin with the transformed ones. The other
    arguments are those of `winograd.winograd_conv`.
    """
    dtype, bias = frames.data.dtype, bias_of(conv)
    slots = new[: winograd.num_transformed(num_frames)] if frames_per_tile == 4 else past + new
    # Before the clip's second frame only the last tap in time meets anything but zeros. These taps are not kept,
    # because a clip has one such frame.
    is_first_frame = num_frames == 1 and past == (0, 0)
    if state.kernels is KernelSet.POINTERS:
        assert gamma is None and early_halo is None
        block = mma_conv.block_for(frames.data.device, frames.data.shape[3], len(bias), frames_per_tile, 3)
        if is_first_frame:
            weights = mma_conv.pack(conv.weight[:, :, 2:], block, dtype)
            return mma_conv.mma_conv(weights, bias, block, 1, frames, new, residual, into, in_place)
        weights = state.packed.get(conv, lambda w: mma_conv.pack(w, block, dtype), f"{block} {dtype}")
        return mma_conv.mma_conv(weights, bias, block, 3, frames, slots, residual, into, in_place)
    if frames_per_tile:
        weights = state.packed.get(
            conv, lambda w: winograd.pack(w, frames_per_tile), f"winograd {frames_per_tile}"
        )
        return winograd.winograd_conv(
            weights, bias, frames, slots, residual, gamma, into, in_place, early_halo
        )
    spare = frames.data.shape[3] - conv.in_channels

    def padded_matrix(weight: Tensor) -> Tensor:
        """Return the matrix of a weight, with zeros for the channels that only the frames have."""
        return matrix_of(nn.functional.pad(weight, (0,) * 7 + (spare,)) if spare else weight)

    if is_first_frame:
        matrix = padded_matrix(conv.weight).chunk(3, 1)[2].to(dtype)
        return direct_conv(matrix, bias, (1, 3, 3), frames, new, residual, gamma, into, in_place=in_place)
    matrix = state.packed.get(conv, lambda w: padded_matrix(w).to(dtype), f"matrix {dtype}")
    return direct_conv(matrix, bias, (3, 3, 3), frames, slots, residual, gamma, into, in_place=in_place)


def convolve_in_time(
    conv: nn.Conv3d, state: FastClipState, frames: PaddedFrames, window: Slots, doubled: Slots
) -> None:
    """Convolve 3x1x1 to twice as many channels, whose halves become every other one of the `doubled` frames.

    `window` are the slots of two past frames and the present ones.
    """
    biases, data = bias_of(conv).chunk(2), frames.data
    if state.kernels is not KernelSet.POINTERS:
        for half, matrix in enumerate(matrix_of(conv.weight).chunk(2)):
            direct_conv(matrix, biases[half], (3, 1, 1), frames, window, into=(frames, doubled[half::2]))
        return
    block = mma_conv.block_for(data.device, data.shape[3], len(biases[0]), 0, 1)
    halves = state.packed.get(
        conv, lambda w: [mma_conv.pack(half, block, data.dtype) for half in w.chunk(2)], f"halves {block}"
    )
    for half, weights in enumerate(halves):
        mma_conv.mma_conv(weights, biases[half], block, 3, frames, window, into=(frames, doubled[half::2]))


def convolve_enlarged(
    conv: nn.Conv2d, state: FastClipState, frames: PaddedFrames, slots: Slots, shortcut: Shortcut | None
) -> Tensor:
    """Enlarge frames twice, convolve them 3x3 and add the shortcut: return [T, 2 H, 2 W, N]."""
    bias, data = bias_of(conv), frames.data
    per_output = 0 if shortcut is None else shortcut.channels_per_output(conv.out_channels)
    if state.kernels is KernelSet.POINTERS:
        block = mma_conv.block_for(data.device, data.shape[3], len(bias), 0, 2)
        weights = state.packed.get(conv, lambda w: mma_conv.pack(w, block, data.dtype), f"{block}")
        return mma_conv.mma_conv(weights, bias, block, 1, frames, slots, shortcut=shortcut)
    if state.kernels is KernelSet.HOPPER and upsample_conv.is_supported(
        conv.in_channels, conv.out_channels, per_output
    ):
        weights = state.packed.get(conv, upsample_conv.pack, "upsample")
        return upsample_conv.upsample_conv(weights, bias, frames, slots, shortcut)
    weights = state.packed.get(conv, fold_upsampling, "folded")
    return direct_conv(weights, bias, (1, 2, 2), frames, slots, up=2, shortcut=shortcut)
