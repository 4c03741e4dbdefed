"""The start of `decode` and `encode`: refusals with code 2, what needs no rank, and the command that ranks start by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.app_runner import ROOT
from support.clips import latent_file

from wanvae_app.cli import commands
from wanvae_app.cli.clip_launch import plan_files
from wanvae_app.cli.clip_options import CLIP_COMMANDS, parse_clip_options

REFUSED = {  # options, and what stands on stderr
    "nothing": ([], "the following arguments are required: IN, --out"),
    "out": (["x.safetensors"], "required: --out"),
    "format": (["IN", "--out", "OUT", "--format", "avi"], "invalid choice: 'avi'"),
    "chunk": (["IN", "--out", "OUT", "--chunk", "17"], "--chunk 17: give 1 to 16"),
    "fps": (["IN", "--out", "OUT", "--fps", "0"], "--fps 0: give 1 to 240"),
    "ranks": (["IN", "--out", "OUT", "--cpu", "0"], "--cpu 0: give 1 or more"),
    "ways": (["IN", "--out", "OUT", "--each", "--together"], "not allowed with argument"),
    "no file": (["NONE", "--out", "OUT"], "none.safetensors means no file."),
    "out is a file": (["IN", "--out", "IN"], "no folder can be made there"),
    "weights": (["IN", "--out", "OUT", "--vae", "/nowhere"], "--vae: There is no file or folder /nowhere"),
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that the program would have become."""
    found: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: found.append(command))
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_options_are_refused_with_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], started: list[list[str]]
) -> None:
    arguments, sentence = REFUSED[name]
    places = {
        "IN": latent_file(tmp_path / "x.safetensors"),
        "OUT": tmp_path / "out",
        "NONE": tmp_path / "none.safetensors",
    }
    with pytest.raises(SystemExit) as refusal:
        commands.main(["decode", *(str(places.get(text, text)) for text in arguments)])
    assert refusal.value.code == 2 and not started
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_what_is_there_already_needs_no_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], started: list[list[str]]
) -> None:
    source = latent_file(tmp_path / "x.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.mp4").touch()
    arguments = ["decode", str(source), "--out", str(tmp_path / "out"), "--json", "--cpu", "2"]
    commands.main(arguments)
    assert not started
    printed = json.loads(capsys.readouterr().out)
    assert (printed["status"], printed["output"]) == ("exists", str(tmp_path / "out" / "x.mp4"))
    commands.main([*arguments, "--overwrite"])
    (command,) = started
    assert command[2] == "wanvae_app.cli.torchrun" and command[command.index("--max-restarts") + 1] == "0"
    commands.main([*arguments, "--overwrite", "--cpu", "1"])
    assert started[1][2] == "wanvae_app.cli.clip_start", "one rank needs no torchrun"
    parsed = parse_clip_options("decode", command[command.index("decode") + 1 :], "decode")
    assert (parsed.inputs, parsed.device, parsed.json) == ([str(source)], "cpu", True)


def test_paths_are_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[list[str]]
) -> None:
    """launch.sh changes the working folder."""
    monkeypatch.setenv("WANVAE_CALLER", str(tmp_path))
    source = latent_file(tmp_path / "in" / "x.pt")
    commands.main(["decode", "in/*.pt", "--out", "out", "--cpu", "1"])
    (command,) = started
    parsed = parse_clip_options("decode", command[command.index("decode") + 1 :], "decode")
    assert [(file.source, file.result) for file in plan_files(parsed)] == [
        (source, tmp_path / "out" / "x.mp4")
    ]


def test_ranks_heed_ctrl_c_before_they_import_torch() -> None:
    code = "import sys, wanvae_app.cli.clip_start; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


def test_too_many_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = latent_file(tmp_path / "x.pt")
    with pytest.raises(SystemExit) as refusal:
        commands.main(["decode", *[str(source)] * 100_000, "--out", str(tmp_path / "out"), "--cpu", "1"])
    assert refusal.value.code == 2
    assert (
        capsys.readouterr().err == "These are too many inputs: give their folder, or a pattern in quotes.\n"
    )


@pytest.mark.parametrize("command", CLIP_COMMANDS)
def test_the_script_explains_and_refuses_before_it_installs(command: str) -> None:
    for arguments, code, text in (
        (["--help"], 0, "--overwrite"),
        (["x", "--out"], 2, "expected one argument"),
    ):
        found = subprocess.run(
            [ROOT / "launch.sh", command, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert found.returncode == code and text in found.stdout + found.stderr
        assert f"usage: ./launch.sh {command}" in found.stdout + found.stderr
        assert "Installing" not in found.stderr
