"""How well the channels of a latent fit the statistics of a family of VAEs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Nats by which one hypothesis must beat the other. With less, "normalised" is assumed, which most programs write.
# Latents of Wan's models give 10 to 80.
CLEAR_EVIDENCE = 8.0


def channel_surprise(z: Tensor, mean: Sequence[float], std: Sequence[float]) -> float:
    """Negative log-likelihood, up to a constant, of z [1, C, T, H, W] as a raw latent of a family.

    `mean` and `std` are the family's, per channel; 0 and 1 stand for a normalised latent. A normalised latent's
    channels have means within about 0.8 of 0 and standard deviations of 0.6 to 1.2. So have a raw one's after
    (z - mean) / std. The densities are Cauchy's: with their heavy tails a few odd channels do not outvote the rest.
    """
    family_mean, family_std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    flat = z[0].flatten(1).double()  # C, T H W, on any device
    m = (flat.mean(1).cpu() - family_mean) / family_std
    s = flat.std(1, correction=0).cpu().clamp_min(1e-6) / family_std
    # A single value has no spread to judge.
    spread = ((s / 0.9).log() / 0.35).square() if flat.shape[1] > 1 else torch.zeros_like(s)
    surprise = (1 + (m / 0.5).square()).log() + (1 + spread).log()
    # Change of variables: the density of m is that of (m - mean) / std, divided by std.
    return float((surprise + family_std.log()).sum())
