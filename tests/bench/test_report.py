"""The report for issues, and its self-test, on CPU ranks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from support.grouped import run_group
from support.tiny import moved, tiny_vae

from wanvae_app.bench import __main__ as bench
from wanvae_app.bench import machine, report, self_test
from wanvae_app.bench.report import report_lines
from wanvae_app.bench.self_test import Errors, check_kernels, check_paths, check_ranks, code_clip
from wanvae_app.config import PRESETS
from wanvae_app.fast.agreement import agree
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the self-test take a clip of 2x3 latent pixels."""
    for name, value in SMALL_CLIP.items():
        monkeypatch.setattr(self_test, name, value)


SMALL_CLIP = {"NUM_LATENTS": 2, "HEIGHT": 2, "WIDTH": 3}
SMALL = {"tiny": ["decode:32x24x5", "encode:32x24x5"]}


def make_tiny(source: str, dtype: torch.dtype, device: torch.device, path: CodePath | None = None) -> WanVAE:
    return moved(tiny_vae(), device, dtype)


def make_report(group: Group) -> list[str]:
    vars(self_test).update(SMALL_CLIP)
    report.make_vae, report.CPU_CASES, report.REPEAT = make_tiny, SMALL, 1  # type: ignore[assignment]
    return list(report_lines(group, agree(group, "fp32")))


def test_a_report_of_two_ranks_says_everything() -> None:
    text = "\n".join(run_group(2, make_report)[0])
    for part in (
        r"^- device of rank 0, 1: CPU, .+, \d+ cores$",
        r"^- system: .*\d",
        rf"^- software: torch {re.escape(torch.__version__)}, CUDA .+, Triton .+, Python 3\.\d+\.\d+, commit \w+",
        "^- rows travel as messages$",
        "^- Wan VAE: 2 ranks on CPU, fp32, plain PyTorch: no GPU$",
        r"^  - self-test of rank 0, 1: plain PyTorch: ok \(decode 0.00%, encode 0.00%\)$",
        r"^  - self-test of 2 ranks: ok \(.+ from one rank\)$",
        r"^\| decode 32x24x5 \| 1 \| [\d.]+ s \| [\d.]+ \| [\d.]+ GiB \|$",
        r"^\| encode 32x24x5 \| 2 \| [\d.]+ s \| [\d.]+ \| [\d.]+ GiB \|$",
    ):
        assert re.search(part, text, re.MULTILINE), f"{part} is not in\n{text}"


def test_the_option_prints_the_report_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Group, "join", lambda _: Group(0, 1, CPU))
    monkeypatch.setattr(report, "make_vae", make_tiny)
    monkeypatch.setattr(report, "CPU_CASES", SMALL)
    monkeypatch.setattr(report, "REPEAT", 1)
    bench.main(["--report", "--dtype", "fp32"])
    printed = capsys.readouterr().out
    assert (
        printed.startswith("**Report of") and "| decode 32x24x5 | 1 |" in printed and "TFLOP" not in printed
    )


def test_what_does_not_fit_or_fails_is_told_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "make_vae", make_tiny)
    monkeypatch.setattr(report, "CPU_CASES", {"tiny": ["decode:32x24x5", "encode:32x24x5"]})
    monkeypatch.setattr(
        report, "refusal", lambda clip, phases, *_: "too much" if phases == ("decode",) else ""
    )
    monkeypatch.setattr(report, "measure", lambda *_: 1 / 0)
    group = Group(0, 1, CPU)
    lines = list(report_lines(group, agree(group, "fp32")))
    assert "| decode 32x24x5 | 1 | does not fit: too much | | |" in lines
    assert "| encode 32x24x5 | 1 | fails: ZeroDivisionError: division by zero | | |" in lines


def spoilt(scale: float) -> Callable[[torch.dtype, CodePath], WanVAE]:
    """Make VAEs that multiply their last weights by `scale` where kernels are asked for."""

    def make(dtype: torch.dtype, path: CodePath) -> WanVAE:
        vae = tiny_vae(dtype)
        vae.path = path
        if path.kernels is not None:
            vae.decoder.head.conv.weight.data *= scale
        return vae

    return make


def test_kernels_that_differ_from_the_plain_path_are_found() -> None:
    plain, same = check_paths(spoilt(1.0), torch.bfloat16, [KernelSet.POINTERS])
    assert str(plain).startswith("plain PyTorch: ok (decode ") and not plain.problem
    assert plain.errors is not None and 1e-4 < min(plain.errors) < max(plain.errors) < 0.1
    assert same == ("fast (Ampere and later)", plain.errors, "")
    _, wrong = check_paths(spoilt(1.5), torch.bfloat16, [KernelSet.POINTERS])
    assert re.fullmatch(r"fast \(.+\): differs: decode \d+.\d+%, where plain PyTorch has \d.\d+%", str(wrong))
    _, nan = check_paths(spoilt(float("nan")), torch.bfloat16, [KernelSet.POINTERS])
    assert "differs: decode nan%" in str(nan)


def test_kernels_that_fail_are_told() -> None:
    def make(dtype: torch.dtype, path: CodePath) -> WanVAE:
        raise RuntimeError("ptxas fatal\nand more")

    found = check_kernels(make, torch.bfloat16, KernelSet.HOPPER, [], Errors(0.0, 0.0))
    assert str(found) == "fast (Hopper): fails: RuntimeError: ptxas fatal"


def test_triton_s_kernels_pass_the_self_test_in_the_interpreter() -> None:
    pytest.importorskip("triton")  # none for this platform
    from support.fast_path import GPU, fast_vae

    if GPU:
        pytest.skip("there the report itself runs")

    shallow = replace(
        PRESETS["wan2.1"], base_dim=8, decoder_base_dim=8, num_res_blocks=1, dim_mult=(1, 2),
        temporal_downsample=(True,),
    )  # fmt: skip
    plain = WanVAE(shallow).requires_grad_(False)

    def make(dtype: torch.dtype, path: CodePath) -> WanVAE:
        vae = fast_vae(shallow)
        vae.load_state_dict(plain.state_dict())
        vae.path = path
        return vae

    exact = code_clip(plain)
    found = check_kernels(make, torch.float32, KernelSet.DESCRIPTORS, exact, Errors(5e-6, 5e-6))
    assert not found.problem and found.errors is not None and max(found.errors) > 0


def disagree(group: Group) -> tuple[str, str]:
    """What two ranks find together; then with other weights on rank 1, whose rows do not fit."""
    vars(self_test).update(SMALL_CLIP)
    vae = tiny_vae()
    right = check_ranks(group, vae)
    if group.rank == 1:
        vae.decoder.conv_in.weight.data *= 2
    return right, check_ranks(group, vae)


def test_ranks_that_differ_from_one_rank_are_found() -> None:
    (right, wrong), other = run_group(2, disagree)
    assert other == (right, wrong)
    assert right.startswith("2 ranks: ok (") and wrong.startswith("2 ranks: differ from one rank (")


def test_commands_that_are_not_there_leave_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine._driver_version() == "unknown" and "commit unknown" in machine.describe_software()
