"""A supervised command ends with the program that wants it, however that ends, and so does all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.app_runner import surroundings, wait_for

from wanvae_app.cli import supervisor
from wanvae_app.cli.supervisor import is_running

SUPERVISOR = [sys.executable, "-m", "wanvae_app.cli.supervisor"]
# Commands that start a child and write both ids. On SIGTERM the one ends its child and itself, the other does nothing.
COMMAND = ["bash", "-c", 'sleep 300 & trap "kill $!; exit" TERM; echo $$ $! > "$0"; wait']
STUBBORN = ["bash", "-c", 'trap "" TERM; sleep 300 & echo $$ $! > "$0"; wait']
PROGRAM = """
import os, subprocess, sys, time
supervised = subprocess.Popen([*sys.argv[1:4], str(os.getpid()), *sys.argv[4:]], stdin=subprocess.PIPE)
print(supervised.pid, flush=True)
time.sleep(300)
"""


def ids_in(path: Path) -> list[int]:
    """Wait for the ids that a command writes."""
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"), 20)
    return [int(word) for word in path.read_text().split()]


def wait_gone(pids: list[int]) -> None:
    wait_for(lambda: not any(map(is_running, pids)), 10)


def test_its_exit_code_is_the_commands() -> None:
    command = [*SUPERVISOR, str(os.getpid()), "bash", "-c", "exit 7"]
    with subprocess.Popen(command, env=surroundings(), stdin=subprocess.PIPE) as process:
        assert process.wait(20) == 7


def kill_program(program: subprocess.Popen[str], supervised: int) -> None:
    program.kill()


def kill_supervisor(program: subprocess.Popen[str], supervised: int) -> None:
    os.kill(supervised, signal.SIGKILL)


def terminate_supervisor(program: subprocess.Popen[str], supervised: int) -> None:
    os.kill(supervised, signal.SIGTERM)


@pytest.mark.parametrize("how", [kill_program, kill_supervisor, terminate_supervisor])
def test_it_ends_however_its_program_ends(
    how: Callable[[subprocess.Popen[str], int], None], tmp_path: Path
) -> None:
    if how is kill_supervisor and sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent was killed")
    command = [sys.executable, "-c", PROGRAM, *SUPERVISOR, *COMMAND, str(tmp_path / "ids")]
    program = subprocess.Popen(command, env=surroundings(), stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        supervised = int(program.stdout.readline())
        pids = ids_in(tmp_path / "ids")
        how(program, supervised)
        wait_gone([supervised, *pids])
    finally:
        program.kill()
        program.wait()
        for pid in ids_in(tmp_path / "ids"):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([*STUBBORN, str(tmp_path / "ids")])
    pids = ids_in(tmp_path / "ids")
    start = time.monotonic()
    supervisor.end(process, grace=1)
    assert time.monotonic() - start >= 1
    assert not any(map(is_running, pids))
