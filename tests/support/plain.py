"""What the kernels compute, in plain PyTorch. Pixels are [T H W C] throughout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wanvae_app.kernels.winograd import POINTS
from wanvae_app.model.layers import PixelNorm


def silu_norm(x: Tensor, gamma: Tensor) -> Tensor:
    """silu(norm(x)) in float64."""
    norm = PixelNorm(len(gamma))
    norm.gamma.data = gamma.double()
    return F.silu(norm(x.double().movedim(-1, 0)[None]))[0].movedim(0, -1)


def plain_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve past and present frames x with weight [N C kt 3 3] in float64: [T N] in place of [T + kt - 1 C]."""
    padding = (0, 1, 1)
    out = F.conv3d(x.double().movedim(-1, 0)[None], weight.double(), bias.double(), padding=padding)
    return out[0].movedim(0, -1)


def plain_upsample_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Enlarge x twice and convolve it with weight [N C 3 3], in float64: [T 2H 2W N]."""
    large = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return plain_conv(large, weight[:, :, None], bias)


def transformed(x: Tensor) -> Tensor:
    """Transform two past frames and T present ones as F(4, 3) does along time: [T / 4 * 6 H W C]."""
    a, b = POINTS
    found: list[Tensor] = []
    for t in range(0, len(x) - 2, 4):
        d = x[t : t + 6]
        for p, q in ((a, b), (b, a)):
            even, odd = d[4] - q * q * d[2], p * (d[3] - q * q * d[1])
            found += [even + odd, even - odd]
        found += [d[i + 4] - (a * a + b * b) * d[i + 2] + (a * b) ** 2 * d[i] for i in (0, 1)]
    return torch.stack(found)
