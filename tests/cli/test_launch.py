"""The launcher: its help, one sentence for what cannot work, what it hands to torchrun, and how that is ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.app_runner import launched, surroundings, wait_for

import app
from wanvae_app.cli import launch
from wanvae_app.cli.launch import free_port

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["--gpus", "--cpu", "--port", "--host", "--vae", "--dtype", "--share", "--auth", "--nnodes", "--node-rank",
           "--master-addr", "--master-port", "--test"]  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "launch.sh", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_explains_every_option() -> None:
    found = run("--help")
    assert found.returncode == 0
    for option in OPTIONS:
        assert option in found.stdout


WRONG = {
    "unknown": (["--gpu-count", "2"], "unrecognized arguments: --gpu-count"),
    "no ranks": (["--cpu", "0"], "--cpu 0: give 1 or more"),
    "both": (["--cpu", "2", "--gpus", "1"], "not allowed with argument"),
    "port": (["--port", "99999"], "a port is a number from 1 to 65535"),
    "dtype": (["--dtype", "int8"], "invalid choice: 'int8'"),
    "auth": (["--auth", "me"], "--auth takes USER:PASSWORD"),
    "node rank": (["--nnodes", "2", "--node-rank", "2", "--master-addr", "a"], "give 0 to 1"),
    "master": (["--nnodes", "2"], "--nnodes needs --master-addr"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_told_at_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, sentence = WRONG[name]
    with pytest.raises(SystemExit) as refusal:
        launch.parse(arguments)
    assert refusal.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_the_script_passes_a_refusal_on() -> None:
    found = run("--port", "none")
    assert found.returncode == 2 and "invalid int value: 'none'" in found.stderr
    assert "Installing" not in found.stderr, "before anything is installed"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What main() would become."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return commands


def test_two_ranks_on_a_cpu(command: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    launch.main(["--port", str(free_port()), "--dtype", "fp32"])
    (found,) = command
    assert found[found.index("--nproc-per-node") + 1] == "2"
    assert found[found.index("--device") + 1] == "cpu" and found[found.index("--dtype") + 1] == "fp32"


def test_every_gpu(command: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    launch.main(["--port", str(free_port())])
    launch.main(["--port", str(free_port()), "--gpus", "3"])
    assert [found[found.index("--nproc-per-node") + 1] for found in command] == ["8", "3"]
    with pytest.raises(SystemExit, match="PyTorch finds 8 GPUs here; give --gpus 8"):
        launch.main(["--gpus", "9"])


def test_several_machines(command: list[list[str]]) -> None:
    launch.main(["--cpu", "1", "--nnodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.1"])
    (found,) = command
    assert found[found.index("--master-addr") + 1 : found.index("--master-addr") + 4] == [
        "10.0.0.1", "--master-port", "29500"]  # fmt: skip


def test_the_password_is_on_no_command_line(
    command: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANVAE_AUTH", "")
    launch.main(["--cpu", "1", "--port", str(free_port()), "--auth", "ann:secret"])
    assert "secret" not in " ".join(command[0]) and app.parse([]).auth == "ann:secret"


def test_refused_before_any_rank_starts(command: list[list[str]], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit, match="cannot listen there"):
            launch.main(["--cpu", "1", "--port", str(taken.getsockname()[1])])
    (tmp_path / "vae.pth").write_text("nothing")
    with pytest.raises(SystemExit, match="--vae: vae.pth is not a .* by its content"):
        launch.main(["--cpu", "1", "--port", str(free_port()), "--vae", str(tmp_path / "vae.pth")])
    assert command == []


def test_weights_are_where_the_caller_sees_them(
    command: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        assert command.pop()[-2:] == ["--vae", str(ROOT / "assets/demo_vae")]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="--vae: nobody/of-this-name could not be had from Hugging Face"):
        launch.main(["--cpu", "1", "--port", str(free_port()), "--vae", "nobody/of-this-name"])


def test_without_python_it_says_so_and_no_more(tmp_path: Path) -> None:
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


GIVING_UP_TOGETHER = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until both have sent theirs
import os, subprocess, sys, time
from pathlib import Path
folder, me = Path(sys.argv[1]), sys.argv[2]
if me == "torchrun":
    ranks = [subprocess.Popen([sys.executable, __file__, folder, rank]) for rank in "01"]
    print([rank.wait() for rank in ranks])
    sys.exit("it saw its ranks end")
import app
kill = os.kill
def both(what):
    (folder / (what + me)).touch()
    end = time.monotonic() + 30
    while not ((folder / (what + "0")).exists() and (folder / (what + "1")).exists()):
        assert time.monotonic() < end
        time.sleep(0.01)
def kill_at_once(pid, number):
    both("ready")
    kill(pid, number)
    both("sent")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
os.kill = kill_at_once
app.end_torchrun()
"""


def test_ranks_that_give_up_together_end_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(GIVING_UP_TOGETHER)
    found = subprocess.run(
        [sys.executable, script, tmp_path, "torchrun"],
        env=surroundings(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == -signal.SIGKILL, found.stdout + found.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_without_a_word(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with launched(log, "--cpu", "2", "--port", str(free_port())) as process:
        wait_for(lambda: "Ready: " in log.read_text() or process.poll() is not None, 90)
        os.killpg(process.pid, number)
        assert process.wait(20) == 128 + number
    started, ready = log.read_text().splitlines()
    assert started == "Starting on 2 processes on the CPU..." and ready.startswith("Ready: ")
