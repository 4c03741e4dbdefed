"""The self-test: codes a small clip on every path that a device has, and on all ranks together, and compares.

Errors are relative, in the Frobenius norm, against the plain path in float32 with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.config import WanConfig
from wanvae_app.errors import describe
from wanvae_app.kernels.code_path import PLAIN, PLAIN_NAME, CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import WHOLE, Shard

NUM_LATENTS, HEIGHT, WIDTH = 3, 8, 13  # of the clip's latent; odd, so that tiles do not fit
ALLOWED = 1.25  # times the error of the plain path in the same dtype
# Errors of several ranks against one, as docs/exactness.md promises.
RANKS_ALLOWED = {torch.bfloat16: 0.02, torch.float16: 0.02, torch.float32: 2e-5, torch.float64: 1e-12}

MakeVAE = Callable[[torch.dtype, CodePath], WanVAE]


class Errors(NamedTuple):
    """Relative errors of a clip."""

    decode: float
    encode: float


class Check(NamedTuple):
    """What one path does to the clip; `str` says it in words."""

    name: str  # of the path
    errors: Errors | None  # None if it fails
    problem: str = ""  # why it fails, or by how much it differs; "" if all is well

    def __str__(self) -> str:
        if self.problem or self.errors is None:
            return f"{self.name}: {self.problem}"
        return f"{self.name}: ok (decode {self.errors.decode:.2%}, encode {self.errors.encode:.2%})"


def check_paths(make_vae: MakeVAE, dtype: torch.dtype, kernels: list[KernelSet]) -> list[Check]:
    """Compare the plain path and these sets of kernels, on this rank alone. The plain path comes first.

    `make_vae` returns a VAE of one set of weights in a dtype on a path.
    """
    reference = make_vae(torch.float32, PLAIN)
    exact = code_clip(reference)
    del reference
    plain = errors_of(make_vae(dtype, PLAIN), exact)
    checks = [check_kernels(make_vae, dtype, each, exact, plain) for each in kernels]
    return [Check(PLAIN_NAME, plain), *checks]


def check_kernels(
    make_vae: MakeVAE, dtype: torch.dtype, kernels: KernelSet, exact: list[Tensor], plain: Errors
) -> Check:
    """Compare a set of kernels with `exact`. Its errors may be ALLOWED times those of the plain path."""
    try:
        vae = make_vae(dtype, CodePath(kernels, "self-test"))
        assert vae.path.kernels is kernels, vae.path
        found = errors_of(vae, exact)
    except Exception as error:  # whatever a compiler or a driver raises: the report is there to tell it
        return Check(kernels.value, None, f"fails: {describe(error)}")
    for phase, mine, allowed in zip(Errors._fields, found, plain, strict=True):
        if not mine <= ALLOWED * allowed:  # NaN is not below anything
            problem = f"differs: {phase} {mine:.2%}, where plain PyTorch has {allowed:.2%}"
            return Check(kernels.value, found, problem)
    return Check(kernels.value, found)


def check_ranks(group: Group, vae: WanVAE) -> str:
    """Compare all ranks together with each rank alone, and return the result in words. All ranks call this."""
    shard = Shard.plan(HEIGHT, WIDTH, group.size, group.rank, group.data, group.peer_memory)
    if group.peer_memory is not None:
        group.peer_memory.reserve_tokens(vae.config, (1, HEIGHT, WIDTH), vae.dtype)
    error = 0.0
    if shard is not None:  # else this rank owns no part of so small a picture
        scales = vae.config.output_factor, 1
        wholes = [shard.part(x, scale) for x, scale in zip(code_clip(vae), scales, strict=True)]
        pairs = zip(code_clip(vae, shard), wholes, strict=True)
        error = max(relative_error(mine, whole) for mine, whole in pairs)
    # The largest error, where NaN counts as the largest.
    worst = max((each for (each,) in group.agree([error])), key=lambda each: (each != each, each))
    verdict = "ok" if worst <= RANKS_ALLOWED[vae.dtype] else "differ from one rank"
    return f"{group.size} ranks: {verdict} ({worst:.2g} from one rank)"


def code_clip(vae: WanVAE, shard: Shard = WHOLE) -> list[Tensor]:
    """Return this rank's part of a clip decoded, and of one encoded, in float64 on the CPU."""
    latents, frames = some_clip(vae.config)
    if shard.num_ranks > 1:
        latents, frames = shard.part(latents), shard.part(frames, vae.config.spatial_factor)
    decoded = torch.cat(list(decode_chunks(vae, latents.split(1, 2), shard)), 2)
    first, later = 1, vae.config.temporal_factor
    sizes = [first, *[later] * (NUM_LATENTS - 1)]
    encoded = torch.cat(list(encode_chunks(vae, frames.split(sizes, 2), shard)), 2)
    vae.release()
    return [decoded.double().cpu(), encoded.double().cpu()]


def some_clip(config: WanConfig) -> tuple[Tensor, Tensor]:
    """Return a latent of noise and frames of noise, the same on every rank."""
    generator = torch.Generator().manual_seed(2)
    scale, num_frames = config.spatial_factor, config.num_frames(NUM_LATENTS)
    latents = torch.randn(1, config.z_dim, NUM_LATENTS, HEIGHT, WIDTH, generator=generator)
    frames = torch.rand(1, 3, num_frames, HEIGHT * scale, WIDTH * scale, generator=generator) * 2 - 1
    return latents, frames


def errors_of(vae: WanVAE, exact: list[Tensor]) -> Errors:
    """Return the errors of decoding and of encoding."""
    return Errors(*map(relative_error, code_clip(vae), exact))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return norm(found - expected) / norm(expected)."""
    return float((found - expected).norm() / expected.norm())
