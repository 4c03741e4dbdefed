"""The transform of F(4, 3) along time, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from wanvae_app.kernels.winograd import POINTS


def transformed(x: Tensor) -> Tensor:
    """What the products multiply for every four frames after the first two."""
    a, b = POINTS
    found: list[Tensor] = []
    for t in range(0, len(x) - 2, 4):
        d = x[t : t + 6]
        for p, q in ((a, b), (b, a)):
            even, odd = d[4] - q * q * d[2], p * (d[3] - q * q * d[1])
            found += [even + odd, even - odd]
        found += [d[i + 4] - (a * a + b * b) * d[i + 2] + (a * b) ** 2 * d[i] for i in (0, 1)]
    return torch.stack(found)
