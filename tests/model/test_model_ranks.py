"""N ranks equal one rank, any chunking equals the whole clip: float64, real gloo processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.grouped import run_group

from wanvae_app.codec import chunk_sizes, decode_chunks, encode_chunks
from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

MAX_RANKS = 7
TOLERANCE = 1e-12  # of the norm; sums are in another order where the picture is cut


def narrow(family: str) -> WanConfig:
    preset = PRESETS[family]
    return replace(preset, base_dim=4, decoder_base_dim=8 if preset.residual else 4)


def make_vae(family: str) -> WanVAE:
    torch.manual_seed(7)
    vae = WanVAE(narrow(family)).double().requires_grad_(False)
    for parameter in vae.parameters():  # biases and gammas too: at their initial values they hide mistakes
        parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))
    return vae


# family, latent height, latent width, latent frames, latents per chunk, ranks
CASES = [
    ("wan2.1", 7, 3, 3, 1, 2),
    ("wan2.1", 7, 3, 4, 2, 3),  # uneven rows
    ("wan2.1", 7, 5, 2, 3, 7),  # one row each, chunk longer than the clip
    ("wan2.1", 3, 2, 2, 1, 7),  # fewer rows than ranks
    ("wan2.1", 2, 9, 3, 3, 4),  # split along the width, odd
    ("wan2.1", 6, 7, 1, 1, 4),  # a picture
    ("wan2.2", 5, 3, 3, 2, 2),
    ("wan2.2", 4, 3, 3, 1, 3),
    ("wan2.2", 2, 7, 2, 2, 4),  # along the width
    ("wan2.2", 7, 2, 2, 1, 7),
]


def code(vae: WanVAE, z: torch.Tensor, x: torch.Tensor, chunk: int, shard: Shard) -> tuple:
    """This rank's part of decode(z) and encode(x), in chunks of `chunk` latent frames."""
    sizes = chunk_sizes(z.shape[2], chunk)
    config = vae.config
    frames = list(decode_chunks(vae, shard.part(z).split(sizes, 2), shard))
    counts = [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]
    latents = list(encode_chunks(vae, shard.part(x, config.spatial_factor).split(counts, 2), shard))
    assert [f.shape[2] for f in frames] == counts
    assert [n.shape[2] for n in latents] == sizes
    return torch.cat(frames, 2), torch.cat(latents, 2)


def inputs(case: tuple) -> tuple[torch.Tensor, torch.Tensor]:
    family, height, width, num_latents, *_ = case
    config = narrow(family)
    scale = config.spatial_factor
    torch.manual_seed(11)
    z = torch.randn(1, config.z_dim, num_latents, height, width, dtype=torch.float64)
    x = (
        torch.rand(1, 3, config.num_frames(num_latents), height * scale, width * scale, dtype=torch.float64)
        * 2
        - 1
    )
    return z, x


def all_cases(group: Group) -> list:
    results = []
    for case in CASES:
        *_, chunk, ranks = case
        z, x = inputs(case)
        shard = Shard.plan(*z.shape[3:], ranks, group.rank, group.data) if group.rank < ranks else None
        results.append(None if shard is None else (shard.dim, *code(make_vae(case[0]), z, x, chunk, shard)))
    return results


@pytest.fixture(scope="module")
def sharded() -> list:
    return run_group(MAX_RANKS, all_cases, timeout=240)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: "-".join(map(str, CASES[i])))
def test_many_ranks_equal_one(sharded: list, index: int) -> None:
    case = CASES[index]
    z, x = inputs(case)
    whole = Shard.plan(z.shape[3], z.shape[4], 1, 0)
    assert whole is not None
    expected = code(make_vae(case[0]), z, x, z.shape[2], whole)  # the whole clip at once
    parts = [results[index] for results in sharded if results[index] is not None]
    assert len(parts) == min(case[-1], max(z.shape[3:])), "so many ranks have something to do"
    for k, name in ((1, "decoded"), (2, "encoded")):
        found = torch.cat([part[k] for part in parts], parts[0][0])
        assert found.shape == expected[k - 1].shape
        error = (found - expected[k - 1]).norm() / expected[k - 1].norm()
        assert error < TOLERANCE, f"{name}: {error:.2e}"


@pytest.mark.parametrize("family", ["wan2.1", "wan2.2"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_equal_the_whole_clip(family: str, chunk: int) -> None:
    z, x = inputs((family, 3, 2, 5))
    whole = Shard.plan(3, 2, 1, 0)
    assert whole is not None
    vae = make_vae(family)
    for found, expected in zip(code(vae, z, x, chunk, whole), code(vae, z, x, 5, whole), strict=True):
        assert (found - expected).norm() / expected.norm() < TOLERANCE
