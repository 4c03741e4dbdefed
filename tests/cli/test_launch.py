"""The launcher: its help, its refusals in one sentence, and the torchrun command that it becomes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from support.app_runner import ROOT
from support.tiny import tiny_checkpoint

import app
from wanvae_app.cli import launch
from wanvae_app.cli.ports import free_port
from wanvae_app.cli.vae_sources import named, parse_vae

OPTIONS = ["--gpus", "--cpu", "--port", "--host", "--allow-host", "--vae", "--dtype", "--share", "--auth", "--nnodes",
           "--node-rank", "--master-addr", "--master-port", "--test"]  # fmt: skip


def launch_sh(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, run to its end."""
    return subprocess.run(
        [ROOT / "launch.sh", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_explains_every_option() -> None:
    found = launch_sh("--help")
    assert found.returncode == 0
    for option in OPTIONS:
        assert option in found.stdout


REFUSED = {  # options, and the end of the last line on stderr
    "unknown": (["--gpu-count", "2"], "unrecognized arguments: --gpu-count"),
    "no ranks": (["--cpu", "0"], "--cpu 0: give 1 or more"),
    "both": (["--cpu", "2", "--gpus", "1"], "not allowed with argument"),
    "port": (["--port", "99999"], "a port is a number from 1 to 65535"),
    "dtype": (["--dtype", "int8"], "invalid choice: 'int8'"),
    "address": (["--allow-host", "http://box"], "'http://box' is not the name of a host"),
    "auth": (["--auth", "me"], "--auth takes USER:PASSWORD"),
    "node rank": (["--nnodes", "2", "--node-rank", "2", "--master-addr", "a"], "give 0 to 1"),
    "master": (["--nnodes", "2"], "--nnodes needs --master-addr"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_options_are_refused_in_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, sentence = REFUSED[name]
    with pytest.raises(SystemExit) as refusal:
        launch.parse(arguments)
    assert refusal.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_the_script_refuses_before_it_installs() -> None:
    found = launch_sh("--port", "none")
    assert found.returncode == 2 and "invalid int value: 'none'" in found.stderr
    assert "Installing" not in found.stderr


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that main() would have become, one for each call."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return commands


def test_without_gpus_two_ranks_run_on_the_cpu(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    launch.main(["--port", str(free_port()), "--dtype", "fp32"])
    (found,) = commands
    assert found[found.index("--nproc-per-node") + 1] == "2"
    assert found[found.index("--device") + 1] == "cpu" and found[found.index("--dtype") + 1] == "fp32"


def test_every_gpu_gets_a_rank(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    launch.main(["--port", str(free_port())])
    launch.main(["--port", str(free_port()), "--gpus", "3"])
    assert [found[found.index("--nproc-per-node") + 1] for found in commands] == ["8", "3"]
    with pytest.raises(SystemExit, match="PyTorch finds 8 GPUs here; give --gpus 8"):
        launch.main(["--gpus", "9"])


def test_several_machines_get_the_master_address(commands: list[list[str]]) -> None:
    launch.main(["--cpu", "1", "--nnodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.1"])
    (found,) = commands
    assert found[found.index("--rdzv-endpoint") + 1 : found.index("--rdzv-endpoint") + 4] == [
        "10.0.0.1:29500", "--rdzv-conf", "rank=1"]  # fmt: skip


def test_names_that_a_proxy_shows_are_passed_on(commands: list[list[str]]) -> None:
    launch.main(
        ["--cpu", "1", "--port", str(free_port()), "--allow-host", "a.example", "--allow-host", "b:1"]
    )
    (found,) = commands
    options = app.parse(found[found.index(str(launch.APP)) + 1 :])
    assert options.allow_host == ["a.example", "b:1"]


def test_the_password_is_passed_in_the_environment(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANVAE_AUTH", "")
    launch.main(["--cpu", "1", "--port", str(free_port()), "--auth", "ann:secret"])
    assert "secret" not in " ".join(commands[0]) and app.parse([]).auth == "ann:secret"


def test_a_taken_port_and_a_bad_file_are_refused_before_torchrun(
    commands: list[list[str]], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit, match="cannot listen there"):
            launch.main(["--cpu", "1", "--port", str(taken.getsockname()[1])])
    (tmp_path / "vae.pth").write_text("nothing")
    with pytest.raises(SystemExit, match="--vae: vae.pth is not a .* by its content"):
        launch.main(["--cpu", "1", "--port", str(free_port()), "--vae", str(tmp_path / "vae.pth")])
    assert commands == []


def test_a_path_is_relative_to_the_caller(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, here = tmp_path / "app" / "launch.sh", tmp_path / "here"
    python = script.parent / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    for name in ("launch.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, script.parent)
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$WANVAE_CALLER: $*"\n')
    python.chmod(0o755)
    here.mkdir()
    found = subprocess.run([script, "--vae", "models/vae.pth"], cwd=here, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == f"{here}: -m wanvae_app.cli.launch --vae models/vae.pth"
    monkeypatch.setenv("WANVAE_CALLER", str(ROOT / "assets"))
    for vae in ("demo_vae", str(ROOT / "assets/demo_vae")):
        launch.main(["--cpu", "1", "--port", str(free_port()), "--vae", vae])
        assert commands.pop()[-2:] == ["--vae", str(ROOT / "assets/demo_vae")]
    shutil.copy(ROOT / "assets/demo_vae/diffusion_pytorch_model.safetensors", here / "two.safetensors")
    monkeypatch.setenv("WANVAE_CALLER", str(here))
    launch.main(["--cpu", "1", "--port", str(free_port()), "--vae", "two.safetensors:."])
    assert commands.pop()[-2:] == ["--vae", f"{here / 'two.safetensors'}:."]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="--vae: nobody/of-this-name could not be had from Hugging Face"):
        launch.main(["--cpu", "1", "--port", str(free_port()), "--vae", "nobody/of-this-name"])


def test_several_vaes_are_checked_and_passed_on(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANVAE_CALLER", str(tmp_path))
    with_equals = tiny_checkpoint(tmp_path / "a=b.pth.safetensors")
    light = tiny_checkpoint(tmp_path / "light.safetensors")

    def start(*vaes: str) -> None:
        options = [text for vae in vaes for text in ("--vae", vae)]
        launch.main(["--cpu", "1", "--port", str(free_port()), *options])

    start(str(ROOT / "assets/demo_vae"), "my light one=light.safetensors", "a=b.pth.safetensors")
    (found,) = commands
    options = app.parse(found[found.index(str(launch.APP)) + 1 :])
    assert dict(named(options.vae)) == {
        "demo_vae": str(ROOT / "assets/demo_vae"),
        "my light one": str(light),
        "a-b.pth": str(with_equals),
    }
    for vaes, sentence in (
        (("light.safetensors", str(light)), "would both be called 'light': give names"),
        (("light.safetensors", "Light=a=b.pth.safetensors"), "would both be called 'Light': give names"),
        (("light.safetensors", "other=nowhere.pth"), "--vae: There is no file or folder nowhere.pth"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            start(*vaes)
    assert len(commands) == 1


def test_names_come_from_what_tells_vaes_apart() -> None:
    sources = [
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "models/one/vae",
        "two/vae/diffusion_pytorch_model.safetensors",
    ]
    assert [name for name, _ in named([parse_vae(source) for source in sources])] == [
        "Wan2.1-T2V-1.3B-Diffusers", "one", "two"]  # fmt: skip
    assert parse_vae("a/b=c") == ("", "a/b=c") and parse_vae("=c") == ("", "=c")
    assert parse_vae("a b=c=d").option == "a b=c=d"


def test_without_python_the_script_says_so_in_one_line(tmp_path: Path) -> None:
    shutil.copy(ROOT / "launch.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    for options in ([], ["--help"]):
        found = subprocess.run(
            [tmp_path / "launch.sh", *options],
            env={"PATH": str(tmp_path / "bin")},
            capture_output=True,
            text=True,
        )
        assert found.returncode == 1 and found.stderr.startswith("launch.sh: Python 3.11 or later is needed")
        assert found.stderr.count("\n") == 1, found.stderr
