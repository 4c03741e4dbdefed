"""How well the channels of a latent fit the statistics of a family of VAEs, whatever the clip's contrast and colours.

A family normalises its latents per channel: u = (z - mean) / std. Three things are known of u, and none is taken as
given: the channels' means (a clip's colours), how the channels' spreads differ, and the contrast, which all channels
share. Each has a scale of its own, over which the likelihood is integrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Nats by which one hypothesis must beat the other to be certain, odds of 90 to 1. Of 54,000 simulated latents, as in
# tests/formats/test_scaling.py, 1 was certain and wrong.
CLEAR_EVIDENCE = 4.5
# Channels are correlated (three colours move all of them), and so are neighbouring pixels. So C channels count as
# these numbers times sqrt(C) independent values.
INDEPENDENT_MEANS = 1.25
INDEPENDENT_SPREADS = 2.0
MIN_STD = 1e-6


def log_evidence(z: Tensor, mean: Sequence[float], std: Sequence[float]) -> float:
    """Logarithm of the likelihood, up to a constant, of z [1, C, T, H, W] as a raw latent of a family.

    `mean` and `std` are the family's, per channel; 0 and 1 stand for a normalised latent. Only the mean and the
    standard deviation of each channel are looked at.
    """
    family_mean, family_std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    # Channel by channel, as a latent may take a gigabyte; on any device.
    moments = [torch.std_mean(channel.double(), correction=0) for channel in z[0]]
    spreads, levels = (torch.stack(values).cpu() for values in zip(*moments, strict=True))
    num_channels = len(moments)
    means = (levels - family_mean) / family_std
    evidence = _evidence_of_means(means, INDEPENDENT_MEANS * math.sqrt(num_channels))
    # Change of variables: the density of z is that of u, divided by std.
    evidence -= INDEPENDENT_MEANS / math.sqrt(num_channels) * float(family_std.log().sum())
    if float(spreads.min()) > MIN_STD:  # a single value has no spread to judge, nor has a constant
        log_spreads = (spreads / family_std).log()
        evidence += _evidence_of_differences(log_spreads, INDEPENDENT_SPREADS * math.sqrt(num_channels))
        evidence += _evidence_of_contrast(float(log_spreads.mean()))
    return evidence


def _evidence_of_means(means: Tensor, num_independent: float) -> float:
    """Of normal means around 0, of any deviation from 0.08 to 0.6; of more, as small crops have it, with doubt."""
    scale = _log_range(0.08, 1.6, 24)
    log_prior = -0.5 * ((scale / 0.6).log().clamp_min(0) / 0.3).square()
    log_density = -0.5 * means.square().mean() / scale.square() - scale.log()
    return _log_mean(num_independent * log_density + log_prior)


def _evidence_of_differences(log_spreads: Tensor, num_independent: float) -> float:
    """Of normal logarithms of spreads around their common mean, of any deviation from 0.12 to 0.9."""
    scale = _log_range(0.12, 0.9, 10)
    deviation = log_spreads.var(correction=0)
    return _log_mean(num_independent * (-0.5 * deviation / scale.square() - scale.log()))


def _evidence_of_contrast(log_contrast: float) -> float:
    """Of a contrast from 0.03 to 1.25, one as likely as the other; of others, with doubt."""
    low, high = math.log(0.03), math.log(1.25)
    return (
        -0.5 * (max(0.0, log_contrast - high) / 0.18) ** 2 - 0.5 * (max(0.0, low - log_contrast) / 0.5) ** 2
    )


def _log_range(low: float, high: float, num: int) -> Tensor:
    return torch.linspace(math.log(low), math.log(high), num, dtype=torch.float64).exp()


def _log_mean(log_values: Tensor) -> float:
    return float(log_values.logsumexp(0)) - math.log(len(log_values))
