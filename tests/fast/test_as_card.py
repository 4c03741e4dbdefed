"""The path by pointers, compiled as for older cards, on a GPU; skipped where there is none.

python -m pytest tests/fast/test_as_card.py
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.distance import distance
from support.grouped import run_group
from torch import Tensor

from wanvae_app.codec import chunk_sizes, decode_chunks, encode_chunks
from wanvae_app.config import PRESETS
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import WHOLE, Shard

pytest.importorskip("triton")  # none for this platform
from wanvae_app.bench.as_card import capability_of_card, run_as
from wanvae_app.fast.vae import FastVAE
from wanvae_app.kernels.kernel_set import KernelSet

NUM_GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(NUM_GPUS == 0, reason="no CUDA GPU here")
CARDS, FAMILIES = ["sm_80", "sm_89"], ["wan2.1", "wan2.2"]
LATENTS, HEIGHT, WIDTH = 5, 13, 22


def needs(card: str) -> None:
    major, minor = torch.cuda.get_device_capability()
    if 10 * major + minor < capability_of_card(card):
        pytest.skip(f"the GPU is older than {card}")


def plain_vae(family: str) -> WanVAE:
    torch.manual_seed(3)
    width = 96 if family == "wan2.1" else 128
    return WanVAE(replace(PRESETS[family], base_dim=width, decoder_base_dim=width)).requires_grad_(False)


def by_pointers(plain: WanVAE, device: torch.device) -> FastVAE:
    """The same weights on the path by pointers, in bf16."""
    vae = FastVAE(plain.config, kernels=KernelSet.POINTERS).requires_grad_(False)
    vae.load_state_dict(plain.state_dict())
    vae.to(device, torch.bfloat16).channels_last()
    return vae


def both(vae: WanVAE, chunk: int, shard: Shard = WHOLE) -> list[Tensor]:
    """A clip of noise, decoded and encoded: float64 on the CPU. On a fast path from the third time on by a graph."""
    config, generator = vae.config, torch.Generator().manual_seed(4)
    scale, sizes = config.spatial_factor, chunk_sizes(LATENTS, chunk)
    counts = [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]
    z = torch.randn(1, config.z_dim, LATENTS, HEIGHT, WIDTH, generator=generator)
    x = torch.rand(1, 3, config.num_frames(LATENTS), HEIGHT * scale, WIDTH * scale, generator=generator)
    x = x * 2 - 1
    if shard.num_ranks > 1:
        z, x = shard.part(z), shard.part(x, scale)
    frames = torch.cat(list(decode_chunks(vae, z.split(sizes, 2), shard)), 2)
    latents = torch.cat(list(encode_chunks(vae, x.split(counts, 2), shard)), 2)
    return [frames.double().cpu(), latents.double().cpu()]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_near_to_float32_as_the_plain_path(family: str, card: str) -> None:
    needs(card)
    device, plain = torch.device("cuda", 0), plain_vae(family)
    Group.join("cuda")  # fp32 means fp32 from here on
    exact = both(plain.to(device), 1)
    with run_as(card):
        vae = by_pointers(plain, device)
        found = {chunk: both(vae, chunk) for chunk in (1, 2)}
    rounded = both(plain.to(torch.bfloat16), 1)
    for index in (0, 1):
        allowed = distance(rounded[index], exact[index])
        for results in found.values():
            assert distance(results[index], exact[index]) < allowed, (index, allowed)
        assert distance(found[1][index], found[2][index]) < 0.03, "chunkings"


def shared_out(group: Group, family: str, card: str) -> list[Tensor]:
    """Decoded and encoded by all ranks together, on rank 0 alone, and there by the plain path in float32."""
    plain = plain_vae(family)
    with run_as(card):
        vae = by_pointers(plain, group.device)
        shard = Shard.plan(HEIGHT, WIDTH, group.size, group.rank, group.data, group.peer_memory)
        assert shard is not None
        if group.peer_memory is not None:
            group.peer_memory.reserve_tokens(vae.config, (1, HEIGHT, WIDTH), vae.dtype)
        for _ in range(3):  # from the second time on from recordings
            mine = both(vae, 1, shard)
        alone = both(vae, 1) if group.rank == 0 else []
    exact = both(plain.to(group.device), 1) if group.rank == 0 else []
    return [torch.tensor(shard.dim), *mine, *alone, *exact]


@pytest.mark.skipif(NUM_GPUS < 2, reason="two GPUs share the picture")
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_gpus_are_as_near_to_float32_as_one(family: str, card: str) -> None:
    """Everywhere in the picture, where it is cut as well: libraries round by the number of pixels they get."""
    needs(card)
    parts = run_group(2, shared_out, family, card, timeout=300, device="cuda")
    dim = int(parts[0][0])
    for index in (1, 2):
        together = torch.cat([part[index] for part in parts], dim)
        alone, exact = parts[0][index + 2], parts[0][index + 4]
        assert distance(together, alone) < 0.03
        assert distance(together, exact) < 1.03 * distance(alone, exact)
        strip = together.shape[dim] // WIDTH if dim == 4 else together.shape[dim] // HEIGHT
        for ours, one, reference in zip(
            *(x.split(strip, dim) for x in (together, alone, exact)), strict=True
        ):
            assert distance(ours, reference) < 1.1 * distance(one, reference)
