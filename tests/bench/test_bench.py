"""The benchmark on CPU ranks over gloo: what it measures, counts by a dry run, projects and prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from support.grouped import run_group
from support.tiny import tiny_vae

from wanvae_app.bench import __main__ as bench
from wanvae_app.bench.beside import HEADINGS, candidates, comparison_rows
from wanvae_app.bench.case import Case
from wanvae_app.bench.cost import count_traffic
from wanvae_app.bench.exchange import exchange_seconds
from wanvae_app.bench.measure import measure
from wanvae_app.bench.projection import project
from wanvae_app.bench.results import Result
from wanvae_app.bench.tables import RANK_HEADINGS, TIME_HEADINGS, ranks_table, time_row
from wanvae_app.config import PRESETS
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.parallel.dry_run import DryRunShard
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
DECODE, ENCODE = Case("decode", 48, 40, 9), Case("encode", 48, 40, 9)


def measured(group: Group, case: Case, sizes: list[int]) -> tuple[list[Result], float | None]:
    """Results of the case on each number of ranks, compared with the first, and the seconds of an exchange."""
    vae = tiny_vae()
    results = [measure(group, vae, case, 1, size, 2) for size in sizes]
    for result in results:
        result.compare(results[0])
    return results, exchange_seconds(group)


def check_shares(result: Result) -> None:
    """Shares of the time are possible."""
    lists = (result.waiting, result.gathering, result.idle)
    assert all(len(shares) == result.ranks for shares in lists)
    for shares in zip(*lists, strict=True):
        assert all(0 <= share <= 1 for share in shares) and sum(shares) <= 1, shares
    assert min(result.idle) == 0, "the slowest rank is never idle"
    assert result.waited_share == max(result.waiting)


def check_bytes(result: Result) -> None:
    """Ranks send little more than the least possible."""
    for sent, least in zip(result.sent_bytes, result.least_bytes, strict=True):
        assert least <= sent <= 1.15 * least


@pytest.mark.parametrize("case", [DECODE, ENCODE], ids=str)
def test_time_and_bytes_of_several_ranks(case: Case) -> None:
    (on_rank_0, exchange), *others = run_group(3, measured, case, [1, 2, 3])
    assert exchange is not None and 0 < exchange < 1
    for results in (on_rank_0, *(on_another for on_another, _ in others)):
        assert [r.ranks for r in results] == [1, 2, 3]
    for result in on_rank_0:
        check_shares(result)
        check_bytes(result)
        assert result.peak_gib == max(result.peaks_gib) > 0
        assert result.frame_bytes[0] == 0
        frames = sum(result.frame_bytes) * 3  # in three chunks
        whole = case.num_frames * case.height * case.width * 3
        assert (0 < frames < whole) if case is DECODE and result.ranks > 1 else frames == 0
    one, _, three = on_rank_0
    assert one.sent_bytes == one.waiting == [0] and one.speedup == one.efficiency == 1
    assert three.speedup == one.seconds / three.seconds == pytest.approx(3 * (three.efficiency or 0))
    assert len(three.peak_shares or []) == 3
    _, inner, outer = three.sent_bytes
    assert outer < inner < 2 * outer, (
        "a second neighbour doubles the rows that a rank sends, but not the tokens"
    )
    assert time_row(three).count("|") == len(TIME_HEADINGS) + 1
    *_, line = ranks_table(on_rank_0).splitlines()
    assert line.startswith(f"| {case} | 3 |") and line.count("|") == len(RANK_HEADINGS) + 1


def test_ranks_without_a_part_are_not_counted() -> None:
    (results, _), *_ = run_group(3, measured, Case("decode", 16, 16, 5), [1, 3])
    assert [r.ranks for r in results] == [1, 2]
    for result in results:
        check_shares(result)
        check_bytes(result)


def test_counted_traffic_equals_a_count_by_hand() -> None:
    """What the upper of two ranks sends in a later chunk: Wan 2.1's decoder of width 4, a latent of 4x2."""
    shard = Shard.plan(4, 2, 2, 0)
    assert shard is not None
    *_, chunk = count_traffic(tiny_vae().config, Case("decode", 32, 16, 9), 1, shard, torch.float32)
    # Numbers per pixel of the boundary row at each scale: frames times channels, of each 3x3 convolution's input and
    # of the smaller picture that is upsampled.
    coarse = 1 * (16 + (2 + 3) * 2 * 16) + 2 * 16
    second = 2 * (8 + 5 * 16) + 4 * 16
    third = 4 * 6 * 8 + 4 * 8
    finest = 4 * (6 * 4 + 4)
    numbers = 2 * coarse + 4 * second + 8 * third + 16 * finest
    tokens = 4 * 16  # 2x2 pixels of this rank, from which the other rank makes keys and values
    assert chunk.token_bytes == 4 * tokens
    assert chunk.num_bytes - chunk.token_bytes == 4 * numbers
    assert chunk.num_exchanges == 1 + 10 + 1 + 6 + 1 + 6 + 1 + 6 + 1


@pytest.mark.parametrize("family", PRESETS)
@pytest.mark.parametrize("kind", ["decode", "encode"])
def test_the_fast_path_sends_little_more_than_the_least(family: str, kind: str) -> None:
    pytest.importorskip("triton")  # none for this platform
    shard = Shard.plan(30, 52, 4, 1)
    assert shard is not None
    scale = PRESETS[family].spatial_factor
    case = Case(kind, 30 * scale, 52 * scale, 5)
    least, sent = (
        sum(t.num_bytes for t in count_traffic(PRESETS[family], case, 1, shard, torch.bfloat16, path))
        for path in (PLAIN, CodePath(KernelSet.HOPPER, "for a test"))
    )
    assert least <= sent <= 1.15 * least


def test_a_projection_adds_the_exchanges_to_the_slowest_slab() -> None:
    group, vae = Group(0, 1, CPU), tiny_vae()
    for case, ranks, slab, interior in ((DECODE, 2, 3, False), (DECODE, 4, 2, True), (ENCODE, 9, 1, True)):
        found = project(group, vae, case, 1, ranks, 1, 1e-3, one_rank=1.0)
        assert (found.ranks, found.cut, found.slab, found.length) == (ranks, "rows", slab, 6)
        assert (found.interior_seconds is not None) == interior
        num_exchanges = found.num_exchanges * 3
        assert 1e-3 * num_exchanges <= found.exchange_seconds < 1e-3 * num_exchanges + 1e-4
        slowest = max(found.edge_seconds, found.interior_seconds or 0.0)
        assert found.seconds == slowest + found.exchange_seconds
        assert found.speedup == 1 / found.seconds == pytest.approx(found.efficiency * ranks)


def test_a_dry_run_shard_is_as_large_as_a_real_one() -> None:
    plan = Shard.plan(5, 9, 3, 1)
    assert plan is not None
    shard = DryRunShard(plan)
    assert shard.halo(torch.ones(1, 2, 1, 5, 3), 1, 1).shape == (1, 2, 1, 5, 5)
    tokens = shard.all_gather_tokens(torch.ones(2, 15, 4))
    assert tokens.shape == (2, 45, 4) and tokens[:, 15:30].min() == 1 and tokens.sum() == 2 * 15 * 4
    shard.make_sequence_even()
    assert (shard.sequence, shard.seconds_waited) == (0, 0.0)


def test_one_rank_prints_a_projection_only_if_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Group, "join", lambda _: Group(0, 1, CPU))
    arguments = ["--no-diffusers", "--repeat", "1", "--case", "decode:32x24x5"]
    bench.main(arguments)
    printed = capsys.readouterr().out
    assert "1 rank on CPU" in printed and "plain PyTorch: no GPU" in printed
    assert "| decode 32x24x5 | 1 | 1 |" in printed and "rojection" not in printed and "By rank" not in printed
    bench.main([*arguments, "--project", "2,4"])
    assert "Projection, not measured: " in capsys.readouterr().out
    bench.main([*arguments, "--project", "2,4", "--exchange-us", "5", "--json"])
    (result,) = json.loads(capsys.readouterr().out)
    assert [p["ranks"] for p in result["projections"]] == [2, 4]
    assert {p["exchange_us"] for p in result["projections"]} == {5}


@pytest.mark.parametrize(
    "arguments",
    [["--ranks", "2"], ["--repeat", "0"], ["--case", "decode:32x24x4"], ["--latent", "missing.safetensors"]],
)
def test_impossible_options_are_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "join", lambda _: Group(0, 1, CPU))
    with pytest.raises(ValueError):
        bench.main(arguments)


def test_json_under_torchrun_has_every_field() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["wanvae_app.bench", "--json", "--no-diffusers", "--repeat", "1", "--case", "decode:32x24x9"]
    command += ["--device", "cpu", "--project", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    one, both = (Result(**found) for found in json.loads(done.stdout))
    assert (one.ranks, both.ranks) == (1, 2) and one.projections and not both.projections
    for result in (one, both):
        check_shares(result)
        check_bytes(result)
        assert (result.path, result.path_reason) == ("plain PyTorch", "no GPU")
    assert asdict(both)["efficiency"] == both.speedup / 2


def test_paths_are_measured_beside_each_other() -> None:
    """The plain path and the device's own, which is the plain one here, in one table."""
    group, vae = Group(0, 1, CPU), tiny_vae(torch.bfloat16)
    rows = list(comparison_rows(group, vae, DECODE, candidates([], "CPU"), 1, 1, False))
    assert [row[:3] for row in rows] == [(DECODE, "plain PyTorch", 1)] * 2, "a CPU takes it, too"
    assert all(len(row) == len(HEADINGS) for row in rows)
    plain, own = (float(str(row[HEADINGS.index("relative error")]).rstrip("%")) for row in rows)
    assert 0.1 < plain == own < 3
