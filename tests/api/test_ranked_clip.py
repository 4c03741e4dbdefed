"""Clips on several ranks: equal to one rank's, ended by rank 0, failed and refused on all alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.distance import distance
from support.grouped import run_group
from support.tiny import some_latent, tiny_vae
from torch import Tensor

import wanvae_app
from wanvae_app.api.ranked_clip import RankedClip
from wanvae_app.api.ranks import Ranks, shared_ranks
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.parallel.process_group import Group

pytestmark = pytest.mark.filterwarnings("ignore:The latent is decoded as raw")  # noise in it looks normalised
ROOT = Path(__file__).resolve().parents[2]


def code(group: Group) -> Any:
    """Every kind of call, one after the other; what is returned says how each ended."""
    vae = wanvae_app.LoadedVae(tiny_vae(torch.float64), Ranks(group))
    first = group.rank == 0

    def given(x: Tensor) -> Tensor | None:
        return x if first else None  # what other ranks give is not read

    def refused(latent: Tensor | None, **options: Any) -> str:
        try:
            vae.decode(latent, **{"scaling": "raw", **options})
        except (ValueError, RuntimeError, MemoryError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    # Tall, then wide: cut along rows, then along columns. The last one has fewer rows than there are ranks.
    tall, wide, small = some_latent(3, 5, 2), some_latent(2, 2, 5), some_latent(2, 1, 1)
    results = [vae.decode(given(z), scaling="normalised", output="float") for z in (tall, wide, small)]
    pixels = vae.decode(given(wide), scaling="raw")
    results += [pixels, vae.encode(given(pixels), scaling="normalised")]
    results.append(vae.encode(given(results[0]), scaling="raw", chunk=2))
    parts = list(vae.encode_stream(iter(pixels) if first else None, scaling="raw", chunk=1))
    results.append(torch.cat(parts, 2) if first else torch.empty(0))
    ends = [refused(given(tall[:, :3]))]
    count = 0
    for _ in vae.decode_stream(given(tall), scaling="raw", chunk=1):
        count += 1
        if count == 2:
            break  # all ranks end, and the next call works
    decode, calls = vae.model.decode, []

    def failing(z: Tensor, state: Any) -> Tensor:
        calls.append(z)
        if group.rank == 1 and len(calls) == 2:
            raise RuntimeError("a rigged fault")
        return decode(z, state)

    vae.model.decode = failing  # type: ignore[method-assign]
    ends.append(refused(given(tall), chunk=1) if group.size > 1 else "")
    vae.model.decode = decode  # type: ignore[method-assign]
    results.append(vae.decode(given(tall), scaling="normalised", output="float"))
    ends.append("" if group.size == 1 else crossed(vae, tall))
    ends.append("" if group.size == 1 else broken(vae))
    return results, count, ends


def crossed(vae: wanvae_app.LoadedVae, latent: Tensor) -> str:
    """Rank 0 decodes while the others encode."""
    try:
        if vae.rank == 0:
            vae.decode(latent, scaling="raw")
        else:
            vae.encode(None, scaling="raw")
    except ValueError as error:
        return str(error)
    return ""


def broken(vae: wanvae_app.LoadedVae) -> str:
    """Rank 0's frames end with an error."""
    frame = torch.zeros(16, 16, 3, dtype=torch.uint8)
    try:
        for _ in vae.encode_stream((frame[: 16 // n] for n in (1, 1, 1, 0)), scaling="raw"):
            assert vae.rank == 0
    except RuntimeError as error:
        return str(error)
    return ""


def test_ranks_equal_one_rank_and_end_alike() -> None:
    expected, _, _ = code(Group(0, 1, torch.device("cpu")))
    found = run_group(2, code)
    results, count, ends = found[0]
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert distance(ours.double(), theirs.double()) < 1e-12
    assert count == 2
    _, other_count, other_ends = found[1]
    assert other_count == 0 and ends == other_ends
    refusal, failure, crossing, breaking = ends
    assert refusal.startswith("ValueError: A latent of shape [1, 3, 3, 5, 2]")
    assert failure == "RuntimeError: Rank 1 failed at chunk 2: RuntimeError: a rigged fault"
    assert crossing.startswith("The ranks make different calls: rank 0 decodes, and rank 1 encodes")
    assert breaking.startswith("Rank 0 failed at chunk 2: ZeroDivisionError")
    for ours in found[1][0]:
        assert not ours.numel()


def unfinished(group: Group) -> str:
    """Two streams at once, which several ranks cannot code, and a group that the program made itself."""
    with pytest.raises(ValueError, match="has initialised torch.distributed itself"):
        shared_ranks("cpu")
    vae = wanvae_app.LoadedVae(tiny_vae(), Ranks(group))
    streams = [vae.decode_stream(some_latent(3), scaling="raw") for _ in range(2)]
    if group.rank > 0:
        assert not list(streams[0])
        return ""
    next(streams[0])
    try:
        next(streams[1])
    except ValueError as error:
        return str(error)
    finally:
        streams[0].close()  # type: ignore[attr-defined]
    return ""


def test_a_second_stream_waits_for_the_first() -> None:
    assert "exhaust or close it" in run_group(2, unfinished)[0]


@pytest.mark.parametrize("fitting", [0, 1, 2, 3])
def test_a_clip_takes_the_first_path_that_has_memory(
    fitting: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_vae()
    model.path = own = CodePath(KernelSet.HOPPER, "asked for")
    paths = [own, own._replace(frames_at_once=2), PLAIN]
    taken: list[CodePath] = []
    monkeypatch.setattr(model, "take_path", taken.append)
    monkeypatch.setattr(
        RankedClip,
        "_memory_refusal",
        lambda self, path: "" if path in paths[fitting:][:1] else "it needs 9 GiB",
    )
    vae = wanvae_app.LoadedVae(model, Ranks(Group(0, 1, torch.device("cpu"))))
    if fitting == len(paths):
        with pytest.raises(MemoryError, match="it needs 9 GiB"):
            vae.decode(some_latent(1), scaling="normalised")
        return
    vae.decode(some_latent(1), scaling="normalised")
    assert taken[0] == own and taken[-1] == paths[fitting]
    assert bool(caplog.records) == (fitting > 0)


SCRIPT = """
import torch, wanvae_app
vae = wanvae_app.load_vae(dtype="fp32", device="cpu")
frames = vae.decode(torch.zeros(1, 16, 2, 4, 6), scaling="normalised")
if vae.rank == 0:
    print(vae, tuple(frames.shape), int(frames.long().sum()))
"""


def test_torchrun_starts_the_same_program_on_all_ranks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    vae = wanvae_app.load_vae(dtype="fp32", device="cpu")
    frames = vae.decode(torch.zeros(1, 16, 2, 4, 6), scaling="normalised")
    assert abs(int(found.stdout.split()[-1]) - int(frames.long().sum())) < 100
    assert "2 ranks) (5, 32, 48, 3)" in found.stdout
