"""`decode` and `encode` on two ranks: both ways give the same files, and whatever happens leaves whole files only."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support.app_runner import wait_for
from support.clips import ClipProgram, latent_file
from support.grouped import run_group
from support.tiny import tiny_checkpoint, tiny_vae

import wanvae_app
from wanvae_app.api.ranked_clip import RankedClip
from wanvae_app.api.ranks import Ranks
from wanvae_app.cli import clip_ranks
from wanvae_app.cli.clip_launch import plan_files
from wanvae_app.cli.clip_options import parse_clip_options
from wanvae_app.cli.clip_report import ClipReport
from wanvae_app.parallel.process_group import Group


class Heard(ClipReport):
    """A report that keeps its outcomes."""

    def outcomes(self) -> list[tuple[str, int, str]]:
        return [(o.status, o.ranks, o.error) for _, o in sorted(self._outcomes.items())]


def code(group: Group, arguments: list[str], fault: str) -> list[tuple[str, int, str]]:
    """One rank's part in `decode`; rank 0 returns how it went with each file."""
    options = parse_clip_options("decode", arguments, "decode")
    model = tiny_vae(torch.float64)
    vae = wanvae_app.LoadedVae(model, Ranks(group))
    options.out.mkdir(exist_ok=True)
    decode, calls = model.decode, []

    def failing(z: Any, state: Any) -> Any:
        calls.append(z)
        if group.rank == 1 and len(calls) == 3:  # the first chunk of b.pt
            raise RuntimeError("a rigged fault")
        return decode(z, state)

    if fault == "fault":
        model.decode = failing  # type: ignore[method-assign]
    if fault == "memory":
        refuse = RankedClip._memory_refusal
        RankedClip._memory_refusal = (  # type: ignore[method-assign]
            lambda self, path: "it needs 9 GiB" if self.group.size == 1 else refuse(self, path)
        )
    if group.rank > 0:
        clip_ranks._follow(vae, options, options.out)
        return []
    files = plan_files(options)
    report = Heard(files, as_json=False)
    clip_ranks._lead(vae, files, options, options.out, report)
    report.close()
    return report.outcomes()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    for name, width in (("a.pt", 3), ("b.pt", 5), ("c.pt", 3)):
        latent_file(folder / name, 2, 3, width)
    (folder / "d.pt").write_bytes(b"no tensor")
    return folder


def on_two_ranks(inputs: Path, out: Path, *options: str, fault: str = "") -> list[tuple[str, int, str]]:
    found: list[list[tuple[str, int, str]]] = run_group(
        2, code, [str(inputs), "--out", str(out), *options], fault
    )
    return found[0]


def test_both_ways_give_the_same_files(inputs: Path, tmp_path: Path) -> None:
    together = on_two_ranks(inputs, tmp_path / "together", "--together")
    alone = on_two_ranks(inputs, tmp_path / "each", "--each")
    for outcomes, num_ranks in ((together, 2), (alone, 1)):
        assert [(status, ranks) for status, ranks, _ in outcomes] == [("done", num_ranks)] * 3 + [
            ("failed", 0)
        ]
        assert outcomes[3][2].startswith("d.pt is not a latent")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()


def test_a_fault_on_a_rank_is_a_sentence_and_the_others_go_on(inputs: Path, tmp_path: Path) -> None:
    outcomes = on_two_ranks(inputs, tmp_path / "out", "--together", fault="fault")
    assert [status for status, _, _ in outcomes] == ["done", "failed", "done", "failed"]
    assert outcomes[1][2] == "Rank 1 failed at chunk 1: RuntimeError: a rigged fault."
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "c.mp4"]


def test_what_one_rank_lacks_memory_for_is_coded_together(inputs: Path, tmp_path: Path) -> None:
    outcomes = on_two_ranks(inputs, tmp_path / "out", "--each", fault="memory")
    assert [(status, ranks) for status, ranks, _ in outcomes] == [("done", 2)] * 3 + [("failed", 0)]


def test_an_interrupted_folder_is_continued(tmp_path: Path) -> None:
    """Ctrl-C, then the same command, of which a rank is killed: whole files only, no process left, no traceback."""
    for index in range(20):
        latent_file(tmp_path / "in" / f"{index:02}.safetensors", 12, 12, 12)
    weights, out = tiny_checkpoint(tmp_path / "vae.safetensors"), tmp_path / "out"
    arguments = [tmp_path / "in", "--out", out, "--vae", weights, "--cpu", "2", "--dtype", "fp32", "--json"]

    def results() -> list[Path]:
        return sorted(out.glob("*.mp4"))

    program = ClipProgram(tmp_path / "log", "decode", *arguments, "--together")
    wait_for(lambda: results() or program.process.poll() is not None, 60)
    program.interrupt()
    lines = program.finish()
    assert program.process.returncode == 128 + signal.SIGINT, program.log()
    finished = {Path(line["output"]) for line in lines if line["status"] == "done"}
    assert 1 <= len(finished) < 20 and finished == set(results()) == set(out.iterdir())
    assert "Interrupted" in program.log() and "Traceback" not in program.log()

    program = ClipProgram(tmp_path / "log", "decode", *arguments, "--each")
    wait_for(lambda: len(results()) > len(finished) or program.process.poll() is not None, 60)
    (killed,) = program.pids(rank=1)
    os.kill(killed, signal.SIGKILL)
    lines = program.finish()
    assert program.process.returncode == 1
    assert {Path(line["output"]) for line in lines if line["status"] == "exists"} == finished
    done = {Path(line["output"]) for line in lines if line["status"] == "done"}
    assert done and finished | done <= set(results()) == set(out.iterdir()) and len(results()) < 20
    assert "Rank 1 was killed by SIGKILL." in program.log() and "Traceback" not in program.log()
