"""N ranks equal one rank, any chunking equals the whole clip: float64, real gloo processes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, cast

import pytest
import torch
from support.grouped import run_group
from torch import Tensor

from wanvae_app.codec import chunk_sizes, decode_chunks, encode_chunks
from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.model import vae as model
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import Level, WanVAE
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

MAX_RANKS = 7
PART_BYTES = 16 << 10  # two frames of the largest level of a small case, one of a larger case
TOLERANCE = 1e-12  # of the norm; where a picture is cut, sums are added in another order


class Case(NamedTuple):
    """A clip, and how it is cut in time and space."""

    family: str
    height: int  # of the latent
    width: int
    num_latents: int  # latent frames
    chunk: int = 1  # latent frames per chunk
    ranks: int = 1

    @property
    def config(self) -> WanConfig:
        """A narrow member of the family."""
        preset = PRESETS[self.family]
        return replace(preset, base_dim=4, decoder_base_dim=8 if preset.residual else 4)


CASES = [
    Case("wan2.1", 7, 3, 3, chunk=1, ranks=2),
    Case("wan2.1", 7, 3, 4, chunk=2, ranks=3),  # uneven rows
    Case("wan2.1", 7, 5, 2, chunk=3, ranks=7),  # one row each, and a chunk longer than the clip
    Case("wan2.1", 3, 2, 2, chunk=1, ranks=7),  # fewer rows than ranks
    Case("wan2.1", 2, 9, 3, chunk=3, ranks=4),  # cut along the width, unevenly
    Case("wan2.1", 6, 7, 1, chunk=1, ranks=4),  # a single frame
    Case("wan2.2", 5, 3, 3, chunk=2, ranks=2),
    Case("wan2.2", 4, 3, 3, chunk=1, ranks=3),
    Case("wan2.2", 2, 7, 2, chunk=2, ranks=4),  # cut along the width
    Case("wan2.2", 7, 2, 2, chunk=1, ranks=7),
]


class Coded(NamedTuple):
    """One rank's part of the results."""

    frames: Tensor
    latents: Tensor


def make_vae(config: WanConfig) -> WanVAE:
    torch.manual_seed(7)
    vae = WanVAE(config).double().requires_grad_(False)
    for parameter in vae.parameters():  # at their initial values, biases and gammas would hide mistakes
        parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))
    return vae


def code(vae: WanVAE, latents: Tensor, frames: Tensor, chunk: int, shard: Shard) -> Coded:
    """Decode the latents and encode the frames, `chunk` latent frames at a time."""
    sizes = chunk_sizes(latents.shape[2], chunk)
    config = vae.config
    decoded = list(decode_chunks(vae, shard.part(latents).split(sizes, 2), shard))
    counts = [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]
    encoded = list(encode_chunks(vae, shard.part(frames, config.spatial_factor).split(counts, 2), shard))
    assert [x.shape[2] for x in decoded] == counts
    assert [x.shape[2] for x in encoded] == sizes
    return Coded(torch.cat(decoded, 2), torch.cat(encoded, 2))


def inputs(case: Case) -> tuple[Tensor, Tensor]:
    """Return whole latents and whole frames of the case's size, float64."""
    config, scale = case.config, case.config.spatial_factor
    torch.manual_seed(11)
    shape = (1, config.z_dim, case.num_latents, case.height, case.width)
    latents = torch.randn(shape, dtype=torch.float64)
    shape = (1, 3, config.num_frames(case.num_latents), case.height * scale, case.width * scale)
    return latents, torch.rand(shape, dtype=torch.float64) * 2 - 1


def whole_picture(case: Case) -> Shard:
    """The shard of a single rank."""
    shard = Shard.plan(case.height, case.width, 1, 0)
    assert shard is not None
    return shard


def code_all_cases(group: Group) -> list[tuple[int, Coded] | None]:
    """Return, for each case, along which dimension the picture is cut and this rank's part; None if it has none.

    Levels take a few frames at a time, though pictures are small. Ranks with fewer rows must do so as well.
    """
    model.PART_BYTES = PART_BYTES
    results: list[tuple[int, Coded] | None] = []
    for case in CASES:
        shard = None
        if group.rank < case.ranks:
            shard = Shard.plan(case.height, case.width, case.ranks, group.rank, group.data)
        if shard is None:
            results.append(None)
        else:
            results.append((shard.dim, code(make_vae(case.config), *inputs(case), case.chunk, shard)))
    return results


@pytest.fixture(scope="module")
def results_by_rank() -> list[list[tuple[int, Coded] | None]]:
    return run_group(MAX_RANKS, code_all_cases, timeout=240)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: "-".join(map(str, CASES[i])))
def test_many_ranks_equal_one(results_by_rank: list[list[tuple[int, Coded] | None]], index: int) -> None:
    case = CASES[index]
    expected = code(make_vae(case.config), *inputs(case), case.num_latents, whole_picture(case))
    found = [part for results in results_by_rank if (part := results[index]) is not None]
    assert len(found) == min(case.ranks, max(case.height, case.width)), (
        "every rank that can have a part has one"
    )
    dim, parts = found[0][0], [part for _, part in found]
    for name in Coded._fields:
        whole, truth = torch.cat([getattr(part, name) for part in parts], dim), getattr(expected, name)
        assert whole.shape == truth.shape
        error = (whole - truth).norm() / truth.norm()
        assert error < TOLERANCE, f"{name}: {error:.2e}"


@pytest.mark.parametrize("family", ["wan2.1", "wan2.2"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_equal_the_whole_clip(family: str, chunk: int) -> None:
    case = Case(family, 3, 2, 5)
    vae, shard = make_vae(case.config), whole_picture(case)
    found, expected = (code(vae, *inputs(case), length, shard) for length in (chunk, case.num_latents))
    for x, truth in zip(found, expected, strict=True):
        assert (x - truth).norm() / truth.norm() < TOLERANCE


@pytest.mark.parametrize("family", ["wan2.1", "wan2.2"])
@pytest.mark.parametrize(
    "frames", [0, 1, 2]
)  # of the largest level, at a time; 0: all levels take as few as they can
def test_frames_at_a_time_change_nothing(family: str, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(family, 3, 2, 5)
    vae, shard = make_vae(case.config), whole_picture(case)
    expected = code(vae, *inputs(case), 2, shard)
    config, size = case.config, 8 * case.height * case.width * case.config.output_factor**2
    largest = config.decoder_base_dim * size // config.output_patch**2
    seen: list[int] = []  # frames that the decoder's largest level takes
    finest = cast(Level, vae.decoder.levels[-1])
    forward = finest.forward

    def counted(x: Tensor, state: ClipState) -> Tensor:
        seen.append(x.shape[2])
        return forward(x, state)

    monkeypatch.setattr(finest, "forward", counted)
    monkeypatch.setattr(model, "PART_BYTES", frames * largest)
    found = code(vae, *inputs(case), 2, shard)
    for x, truth in zip(found, expected, strict=True):
        assert (x - truth).norm() / truth.norm() < TOLERANCE
    assert max(seen) <= max(frames, 1) and sum(seen) == config.num_frames(case.num_latents)


def test_a_first_chunk_of_several_latents_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("wan2.1", 3, 2, 3)
    vae = make_vae(case.config)
    latents, frames = inputs(case)
    expected = vae.decode(latents, vae.new_state()), vae.encode(frames, vae.new_state())
    monkeypatch.setattr(model, "PART_BYTES", 0)
    for x, truth in zip(
        (vae.decode(latents, vae.new_state()), vae.encode(frames, vae.new_state())), expected, strict=True
    ):
        assert (x - truth).norm() / truth.norm() < TOLERANCE
