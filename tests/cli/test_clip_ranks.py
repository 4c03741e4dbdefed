"""`decode` and `encode` on two ranks: both ways give the same files, and whatever happens leaves whole files only."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
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


Told = list[tuple[str, int, str]]  # status, number of ranks and error, by file


def code(group: Group, inputs: str, runs: dict[str, list[str]]) -> dict[str, Told]:
    """One rank's part in `decode`, once for each run; rank 0 returns how it went with the files of each."""
    vae = wanvae_app.LoadedVae(tiny_vae(torch.float64), Ranks(group))
    return {name: code_once(vae, [inputs, *options], name) for name, options in runs.items()}


def code_once(vae: wanvae_app.LoadedVae, arguments: list[str], fault: str) -> Told:
    options = parse_clip_options("decode", arguments, "decode")
    options.out.mkdir(exist_ok=True)
    decode, refuse = vae.model.decode, RankedClip._memory_refusal
    calls: list[Any] = []

    def failing(z: Any, state: Any) -> Any:
        calls.append(z)
        if vae.rank == 1 and len(calls) == 3:  # the first chunk of b.pt
            raise RuntimeError("a rigged fault")
        return decode(z, state)

    with pytest.MonkeyPatch.context() as patch:
        if fault == "fault":
            patch.setattr(vae.model, "decode", failing)
        if fault == "memory":
            patch.setattr(
                RankedClip,
                "_memory_refusal",
                lambda self, path: "it needs 9 GiB" if self.group.size == 1 else refuse(self, path),
            )
        if vae.rank > 0:
            clip_ranks._follow(vae, options, options.out)
            return []
        files = plan_files(options)
        report = Heard(files, as_json=False)
        clip_ranks._lead(vae, files, options, options.out, report)
        report.close()
        return report.outcomes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Told]:
    """How it went with the same files, coded in several ways by the same two ranks."""
    for name, width in (("a.pt", 3), ("b.pt", 5), ("c.pt", 3)):
        latent_file(folder / "in" / name, 2, 3, width)
    (folder / "in" / "d.pt").write_bytes(b"no tensor")
    ways = {"together": "--together", "each": "--each", "fault": "--together", "memory": "--each"}
    runs = {name: ["--out", str(folder / name), way] for name, way in ways.items()}
    found: list[dict[str, Told]] = run_group(2, code, str(folder / "in"), runs, timeout=120)
    return found[0]


def test_both_ways_give_the_same_files(told: dict[str, Told], folder: Path) -> None:
    for name, num_ranks in (("together", 2), ("each", 1)):
        assert [(status, ranks) for status, ranks, _ in told[name]] == [("done", num_ranks)] * 3 + [
            ("failed", 0)
        ]
        assert told[name][3][2].startswith("d.pt is not a latent")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        assert (folder / "together" / name).read_bytes() == (folder / "each" / name).read_bytes()


def test_a_fault_on_a_rank_is_a_sentence_and_the_others_go_on(told: dict[str, Told], folder: Path) -> None:
    assert [status for status, _, _ in told["fault"]] == ["done", "failed", "done", "failed"]
    assert told["fault"][1][2] == "Rank 1 failed at chunk 1: RuntimeError: a rigged fault."
    assert sorted(path.name for path in (folder / "fault").iterdir()) == ["a.mp4", "c.mp4"]


def test_what_one_rank_lacks_memory_for_is_coded_together(told: dict[str, Told]) -> None:
    assert [(status, ranks) for status, ranks, _ in told["memory"]] == [("done", 2)] * 3 + [("failed", 0)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_all_gpus_together_and_each_on_its_own(tmp_path: Path) -> None:
    """Both ways give the same pictures on this machine's GPUs, and no clip fails."""
    for index in range(2 * torch.cuda.device_count()):
        latent_file(tmp_path / "in" / f"{index}.safetensors", 5, 30, 52)
    pictures = []
    for way, num_ranks in (("--together", torch.cuda.device_count()), ("--each", 1)):
        program = ClipProgram(
            tmp_path / "log", "decode", tmp_path / "in", "--out", tmp_path / way, "--json", way
        )
        lines = program.finish(timeout=300)
        assert program.process.returncode == 0, program.log()
        assert {(line["status"], line["ranks"], line["frames"]) for line in lines} == {
            ("done", num_ranks, 17)
        }
        pictures.append(np.stack(list(iio.imiter(tmp_path / way / "0.mp4", plugin="FFMPEG"))).astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 2


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
    there = set(results())
    assert 1 <= len(there) < 20 and finished <= there == set(out.iterdir())
    assert "Interrupted" in program.log() and "Traceback" not in program.log()

    program = ClipProgram(tmp_path / "log", "decode", *arguments, "--each")
    wait_for(lambda: len(results()) > len(there) or program.process.poll() is not None, 60)
    (killed,) = program.pids(rank=1)
    os.kill(killed, signal.SIGKILL)
    lines = program.finish()
    assert program.process.returncode == 1, program.log()
    assert {Path(line["output"]) for line in lines if line["status"] == "exists"} == there
    done = {Path(line["output"]) for line in lines if line["status"] == "done"}
    assert there | done <= set(results()) == set(out.iterdir()) and len(results()) < 20
    assert "Rank 1 was killed by SIGKILL." in program.log() and "Traceback" not in program.log()
