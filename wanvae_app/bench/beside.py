"""Several code paths beside each other: the same work with the same weights, in one run on one machine.

The plain path, the path that the device takes, the path by pointers as on other cards (see `as_card.py`), diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from wanvae_app.bench.case import Case
from wanvae_app.bench.diffusers_baseline import diffusers_seconds
from wanvae_app.bench.measure import measure
from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.kernels.code_path import PLAIN_NAME
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group

HEADINGS = ("work", "path", "ranks", "all", "plain / this", "peak", "relative error")
ERROR_LATENTS, ERROR_SIZE = 3, (8, 13)  # latent frames, height and width of the clip whose error is taken


class Candidate(NamedTuple):
    """A code path, by the name that people read."""

    name: str  # "": that of the path which the device takes
    card: str | None = None  # such as "sm_80": the path by pointers, compiled as for this card
    is_plain: bool = False

    def context(self) -> AbstractContextManager[None]:
        """Return the block in which a VAE of this path is made and used."""
        if self.card is None:
            return nullcontext()
        from wanvae_app.bench.as_card import run_as  # Triton may be missing

        return run_as(self.card)

    def vae(self, own: WanVAE) -> WanVAE:
        """Return a VAE with the weights of `own` on this path; `own` itself for the path that the device takes."""
        if self.card is None and not self.is_plain:
            return own
        if self.is_plain:
            vae = WanVAE(own.config, own.name)
        else:
            from wanvae_app.fast.vae import FastVAE
            from wanvae_app.kernels.kernel_set import KernelSet

            vae = FastVAE(own.config, own.name, KernelSet.POINTERS)
        vae.load_state_dict(own.state_dict())
        return vae.to(own.device, own.dtype).requires_grad_(False).channels_last()


def candidates(cards: Sequence[str], gpu: str) -> list[Candidate]:
    """Return the paths to compare on a `gpu` such as "NVIDIA H100". Raises ValueError for an unknown card."""
    found = [Candidate(PLAIN_NAME, is_plain=True), Candidate("")]
    if cards:
        from wanvae_app.bench.as_card import label

        found += [Candidate(label(card, gpu), card) for card in cards]
    return found


def comparison_rows(
    group: Group,
    own: WanVAE,
    case: Case,
    paths: Sequence[Candidate],
    chunk: int | None,
    repeat: int,
    diffusers: bool,
) -> Iterator[tuple[object, ...]]:
    """Yield the cells under HEADINGS for each path, then for diffusers on one rank. All ranks call this.

    The relative error is that of a small clip against the plain path in float32.
    """
    exact = code_small_clip(Candidate("", is_plain=True).vae(own).float(), case.kind)
    plain_seconds = 0.0
    for path in paths:
        with path.context():
            vae = path.vae(own)
            result = measure(group, vae, case, chunk or vae.default_chunk, group.size, repeat)
            error = ((code_small_clip(vae, case.kind) - exact).norm() / exact.norm()).item()
            vae.release()
            del vae
        plain_seconds = plain_seconds or result.seconds
        yield (
            case,
            path.name or own.path.name,
            result.ranks,
            f"{result.seconds:.3f} s",
            f"{plain_seconds / result.seconds:.2f}x",
            f"{result.peak_gib:.2f} GiB",
            f"{error:.2%}",
        )
    if diffusers and group.rank == 0:
        for name, seconds in (diffusers_seconds(own, case, repeat) or {}).items():
            yield case, f"diffusers, {name}", 1, f"{seconds:.3f} s", f"{plain_seconds / seconds:.2f}x", "", ""
    group.agree([0.0])  # the other ranks wait for rank 0


def code_small_clip(vae: WanVAE, kind: str) -> Tensor:
    """Decode or encode a small clip of noise on this rank alone: float64."""
    config, generator = vae.config, torch.Generator().manual_seed(2)
    height, width = ERROR_SIZE
    if kind == "decode":
        z = torch.randn(1, config.z_dim, ERROR_LATENTS, height, width, generator=generator)
        parts = decode_chunks(vae, z.split(1, 2))
    else:
        scale, num_frames = config.spatial_factor, config.num_frames(ERROR_LATENTS)
        x = torch.rand(1, 3, num_frames, height * scale, width * scale, generator=generator) * 2 - 1
        counts = [1, *[config.temporal_factor] * (ERROR_LATENTS - 1)]
        parts = encode_chunks(vae, x.split(counts, 2))
    return torch.cat([part.double() for part in parts], 2)
