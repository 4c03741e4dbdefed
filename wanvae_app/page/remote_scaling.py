"""Scaling: what a program's latents are, raw, normalised, or scaled by factors that it sends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.formats.latents import NOT_CERTAIN, guess_scaling, to_normalised, to_raw

MAX_TEXT = 40  # characters of a parameter that a sentence repeats


@dataclass(frozen=True)
class Scaling:
    """How the program's latents relate to raw ones: raw = sent / scaling_factor + shift_factor.

    Both are one number, or one for each channel. Without them latents are raw, or normalised by the VAE's own
    statistics if `do_scaling`.
    """

    do_scaling: bool = False
    scaling_factor: tuple[float, ...] = ()
    shift_factor: tuple[float, ...] = ()

    @classmethod
    def parse(cls, query: QueryParams, config: WanConfig) -> Scaling:
        """Read `do_scaling`, `scaling_factor` and `shift_factor`. Raises ValueError for what has no clear meaning."""
        scaling = _numbers(query, "scaling_factor", config.z_dim)
        shift = _numbers(query, "shift_factor", config.z_dim)
        if 0.0 in scaling:
            raise ValueError("A scaling_factor of 0 is impossible: latents are divided by it.")
        do_scaling = read_flag(query, "do_scaling")
        if shift and not scaling:
            raise ValueError(
                "shift_factor without scaling_factor is unclear; give both, or neither for the VAE's own statistics."
            )
        return cls(do_scaling and not scaling, scaling, shift)

    def to_raw(self, z: Tensor, config: WanConfig) -> tuple[Tensor, str]:
        """Return a sent latent [1 C T H W] raw; and a sentence if its statistics clearly contradict the scaling."""
        if self.do_scaling:
            return to_raw(z, config, "normalised"), _doubt(z, config, "normalised")
        raw = z
        if self.scaling_factor:
            raw = raw / _per_channel(self.scaling_factor, z)
        if self.shift_factor:
            raw = raw + _per_channel(self.shift_factor, z)
        return raw, _doubt(raw, config, "raw")

    def from_raw(self, raw: Tensor, config: WanConfig) -> Tensor:
        """Return a raw latent [1 C T H W] as the program wants it: the inverse of `to_raw`."""
        if self.do_scaling:
            return to_normalised(raw, config)
        z = raw
        if self.shift_factor:
            z = z - _per_channel(self.shift_factor, z)
        if self.scaling_factor:
            z = z * _per_channel(self.scaling_factor, z)
        return z


def read_flag(query: QueryParams, name: str) -> bool:
    """Read a truth value, false if it is missing."""
    text = query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError(f"{name} is {text[:MAX_TEXT]!r}; give true or false.")
    return text in ("true", "1")


def _numbers(query: QueryParams, name: str, num_channels: int) -> tuple[float, ...]:
    """Read one number, or one for each channel; none if the parameter is missing."""
    texts = query.getlist(name)
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)) or len(values) not in (0, 1, num_channels):
        raise ValueError(
            f"{name} must be one finite number, or {num_channels}, one for each channel of this VAE's latents."
        )
    return values


def _doubt(z: Tensor, config: WanConfig, scaling: str) -> str:
    """Say in a sentence that a latent clearly looks as if it had the other scaling; "" if it does not."""
    guess = guess_scaling(z, config)
    if guess.scaling == scaling or NOT_CERTAIN in guess.reason:
        return ""
    return (
        f"The latent is decoded as {scaling}, but looks {guess.scaling}; check scaling_factor and do_scaling."
    )


def _per_channel(values: tuple[float, ...], z: Tensor) -> Tensor:
    return z.new_tensor(values).view(-1, 1, 1, 1)
