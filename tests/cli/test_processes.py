"""How the app's processes end: on a signal, together when they cannot start, and for a restart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.app_runner import launched, surroundings, wait_for

from wanvae_app.cli.ports import free_port
from wanvae_app.cli.processes import Ending
from wanvae_app.parallel.process_group import Group

# A stand-in for torchrun starts two ranks, which give up at the same time: each sends SIGKILL and SIGTERM only when the
# other is about to, and receives SIGTERM only when the other has sent both.
GIVING_UP_TOGETHER = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
import os, subprocess, sys, time
from pathlib import Path
folder, me = Path(sys.argv[1]), sys.argv[2]
if me == "torchrun":
    ranks = [subprocess.Popen([sys.executable, __file__, folder, rank]) for rank in "01"]
    print([rank.wait() for rank in ranks])
    sys.exit("it saw its ranks end")
from wanvae_app.cli.processes import end_torchrun
kill = os.kill
def meet(point):
    (folder / (point + me)).touch()
    end = time.monotonic() + 30
    while not ((folder / (point + "0")).exists() and (folder / (point + "1")).exists()):
        assert time.monotonic() < end
        time.sleep(0.01)
def kill_together(pid, number):
    meet("ready")
    kill(pid, number)
    meet("sent")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
os.kill = kill_together
end_torchrun()
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
def test_a_signal_ends_the_app_without_a_message(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with launched(log, "--cpu", "2", "--port", str(free_port())) as process:
        wait_for(lambda: "Ready: " in log.read_text() or process.poll() is not None, 90)
        assert process.poll() is None, log.read_text()
        os.killpg(process.pid, number)
        assert process.wait(20) == 128 + number
    started, path, ready = log.read_text().splitlines()
    assert started == "Starting on 2 processes on the CPU..." and ready.startswith("Ready: ")
    assert "rank 0 INFO 2 ranks on CPU, " in path and path.endswith(", plain PyTorch: no GPU")


def imports_torch(pid: int) -> bool:
    """Whether a process has begun to import torch, and not just Python."""
    try:
        return "/torch/lib/" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [
        int(child)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for child in file.read_text().split()
    ]


@pytest.mark.parametrize("stage", ["launcher", "torchrun", "ranks"])
def test_ctrl_c_is_quiet_while_imports_go_on(tmp_path: Path, stage: str) -> None:
    log = tmp_path / "log"
    with launched(log, "--cpu", "2", "--port", str(free_port())) as process:
        started = {
            "launcher": lambda: imports_torch(process.pid),
            "torchrun": lambda: "Starting" in log.read_text() and imports_torch(process.pid),
            "ranks": lambda: any(map(imports_torch, children(process.pid))),
        }
        wait_for(started[stage], 60)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 128 + signal.SIGINT
    expected = [] if stage == "launcher" else ["Starting on 2 processes on the CPU..."]
    assert log.read_text().splitlines() == expected


@pytest.fixture
def ending() -> Iterator[Ending]:
    """One that listens; the handlers of pytest come back afterwards."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    ending = Ending()
    ending.listen()
    yield ending
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


class DeadRank:
    """A watchdog, as far as `Ending` asks it, that finds rank 1 dead and reaped."""

    def dead_ranks(self, reaped: bool) -> list[int]:
        assert reaped
        return [1]


@pytest.mark.parametrize(
    ("number", "rank_died", "restart"),
    [
        (None, False, True),  # the other ranks are lost, and torchrun has not noticed yet
        (signal.SIGINT, True, False),
        (signal.SIGTERM, False, False),
        (signal.SIGTERM, True, True),
    ],
)
def test_only_lost_ranks_cause_a_restart(
    ending: Ending, number: signal.Signals | None, rank_died: bool, restart: bool
) -> None:
    group = Group(0, 2, torch.device("cpu"))
    if rank_died:
        group.watchdog = DeadRank()  # type: ignore[assignment]
    if number is None:
        ending.ranks_lost()
    else:
        os.kill(os.getpid(), number)
    ending.wait()
    assert ending.is_restart(group) == restart
