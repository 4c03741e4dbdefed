"""Linear codes and their least-squares inverses, written into single layers of the Wan VAE.

Features are [B, C, T, H, W]. In comments BT is B and T flattened.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import Downsample, Upsample


def rows(x: Tensor) -> Tensor:
    """The features [B, C, ...] of all positions as rows, [positions, C]."""
    return x.movedim(1, -1).flatten(0, -2)


def principal(x: Tensor, num: int) -> Tensor:
    """The `num` principal components of x [positions, C] around zero, [num, C], strongest first."""
    values, vectors = torch.linalg.eigh((x.T @ x).double())
    return vectors.flip(1)[:, :num].T.float()


def solve(inputs: Tensor, targets: Tensor, ridge: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Ridge regression: weights [out, in] and bias [out] that predict targets [n, out] from inputs [n, in]."""
    a = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    gram = (a.T @ a).double()
    gram.diagonal()[:-1] += ridge * gram.diagonal()[:-1].mean()
    w = torch.linalg.solve(gram, (a.T @ targets).double()).float().T
    return w[:, :-1], w[:, -1]


def per_frame(x: Tensor) -> Tensor:
    """All frames as one batch, [BT, C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


def half(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply the spatial convolution of a Downsample to every frame, [B, C, T, H / 2, W / 2]."""
    y = F.conv2d(F.pad(per_frame(x), (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
    return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def quads(x: Tensor) -> Tensor:
    """Blocks of 2x2 pixels as rows, [positions, 4 C], in the order (channel, row, column)."""
    x = per_frame(x).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # BT C h 2 w 2
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)


def quiet(conv: nn.Conv2d | nn.Conv3d) -> None:
    """Set weights and bias to zero."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)


def set_half(step: Downsample, x: Tensor, num_in: int, num_out: int) -> Tensor:
    """Make a Downsample output the principal components of 2x2 pixels, and return them.

    They are those of the first `num_in` channels of x, [B, num_out, T, H / 2, W / 2].
    """
    basis = principal(quads(x[:, :num_in]), num_out)
    quiet(step.conv)
    step.conv.weight[:num_out, :num_in, :2, :2] = basis.unflatten(1, (num_in, 2, 2))
    return half(x, step.conv)[:, :num_out]


def set_pairs(step: Downsample, x: Tensor, num: int, to: list[int]) -> None:
    """Make a Downsample halve the frames: keep the `num` strongest of all channels' means and differences over pairs.

    `to` maps a component of x to its channel. A mean stays in its own channel; a difference takes the place of a mean
    that is not kept.
    """
    first, second = x[:, :num, 1::2], x[:, :num, 2::2]
    mean, difference = (((first + s * second) / 2).square().mean((0, 2, 3, 4)) for s in (1, -1))
    chosen = torch.cat([mean, difference]).argsort(descending=True)[:num].tolist()
    slots = {c: c for c in chosen if c < num}
    free = [c for c in range(num) if c not in slots]
    slots.update(zip([c for c in chosen if c >= num], free, strict=True))
    quiet(step.time_conv)
    for candidate, slot in slots.items():
        sign = 1 if candidate < num else -1
        step.time_conv.weight[to[slot], to[candidate % num], 1, 0, 0] = 0.5
        step.time_conv.weight[to[slot], to[candidate % num], 2, 0, 0] = 0.5 * sign


def identity(conv: nn.Module, num: int) -> None:
    """Make a convolution pass on the first `num` channels."""
    quiet(conv)
    for i in range(num):
        conv.weight[i, i, -1] = 1.0


def fit_frames(step: Upsample, x: Tensor, target: Tensor, num_in: int) -> None:
    """Fit an Upsample's time convolution: from x to the target, which has two frames for each after x's first.

    Reads the first `num_in` channels of x.
    """
    past = F.pad(x[:, :num_in, 1:], (0, 0, 0, 0, 2, 0))
    taps = torch.cat([past[:, :, i : i + x.shape[2] - 1] for i in range(3)], 1)
    num, dim = target.shape[1], x.shape[1]
    for k in range(2):
        w, b = solve(rows(taps), rows(target[:, :, 1 + k :: 2]))
        step.time_conv.weight[k * dim : k * dim + num, :num_in] = w.unflatten(1, (3, num_in)).transpose(1, 2)[
            ..., None, None
        ]
        step.time_conv.bias[k * dim : k * dim + num] = b


def fit_pixels(conv: nn.Conv2d, x: Tensor, target: Tensor, num_in: int) -> None:
    """Fit the convolution after an Upsample doubles the pixels: from the first `num_in` channels of x to the target.

    Goes clip by clip, because the patches of all clips need much memory.
    """
    gram, cross = 0.0, 0.0
    for a, b in zip(x[:, :num_in], target, strict=True):
        wide = F.interpolate(a.transpose(0, 1), scale_factor=2.0, mode="nearest-exact")
        patches = F.unfold(wide, 3, padding=1).transpose(1, 2).flatten(0, 1)
        patches = torch.cat([patches, torch.ones_like(patches[:, :1])], 1)
        gram = gram + (patches.T @ patches).double()
        cross = cross + (patches.T @ b.permute(1, 2, 3, 0).flatten(0, 2)).double()
    gram.diagonal()[:-1] += 1e-5 * gram.diagonal()[:-1].mean()
    w = torch.linalg.solve(gram, cross).float().T
    num = target.shape[1]
    conv.weight[:num, :num_in] = w[:, :-1].unflatten(1, (num_in, 3, 3))
    conv.bias[:num] = w[:, -1]


def full_in(x: Tensor, dim: int) -> Tensor:
    """x with zero channels appended, [B, dim, T, H, W]."""
    return F.pad(x, (0, 0, 0, 0, 0, 0, 0, dim - x.shape[1]))


def set_shortcut(conv: nn.Conv3d, num: int, constant: int, value: float) -> None:
    """Make a shortcut pass on the first `num` channels, and set channel `constant` to `value`."""
    identity(conv, num)
    conv.bias[constant] = value


def windows(z: Tensor) -> Tensor:
    """What a causal 3x3x3 convolution reads at each position, in the order of its weights: [B, 27 C, T, H, W]."""
    z = F.pad(z, (1, 1, 1, 1, 2, 0)).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    return z.permute(0, 1, 5, 6, 7, 2, 3, 4).flatten(1, 4)


def raise_frames(step: Upsample, x: Tensor, target: Tensor, num: int, constant: float) -> Tensor:
    """Fit an Upsample's time convolution, and return its output: all frames, pixels not doubled yet.

    The last channel is set to `constant`.
    """
    quiet(step.time_conv)
    fit_frames(step, x, target, num)
    dim = x.shape[1]
    step.time_conv.bias[dim - 1] = step.time_conv.bias[2 * dim - 1] = constant
    rest = (
        step.time_conv(x[:, :, 1:], ClipState()).unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
    )
    return torch.cat([x[:, :, :1], rest], 2)


def doubled(step: Upsample, x: Tensor) -> Tensor:
    """Apply the spatial part of an Upsample to every frame, [B, C, T, 2 H, 2 W]."""
    y = F.interpolate(per_frame(x), scale_factor=2.0, mode="nearest-exact")
    return (
        F.conv2d(y, step.conv.weight, step.conv.bias, padding=1)
        .unflatten(0, (x.shape[0], -1))
        .transpose(1, 2)
    )
