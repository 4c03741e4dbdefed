"""What macOS lacks, hidden on Linux: the app starts without it, and its ranks are known to be alive or dead."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.app_runner import ROOT, running_app, surroundings, wait_for
from support.grouped import run_group

from wanvae_app import device, frame_log
from wanvae_app.formats import limits
from wanvae_app.frame_log import FrameLog
from wanvae_app.page import connections
from wanvae_app.parallel import proc_stat
from wanvae_app.parallel.proc_stat import children_of, read_command, read_process
from wanvae_app.parallel.process_group import Group

NO_LINUX = ROOT / "tests" / "support" / "no_linux"  # its sitecustomize.py hides /proc
SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_the_app_starts_stops_and_restarts_without_proc(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": os.pathsep.join([str(NO_LINUX), str(ROOT)])}
    with running_app(tmp_path / "log", environment=environment) as app:
        assert app.health()["state"] in ("ready", "busy")
        boot = app.health()["boot"]
        os.kill(app.rank_pid(1), signal.SIGKILL)
        wait_for(lambda: (app.health() or {}).get("boot", boot) != boot, 60, app)
        assert app.health()["last_words"] == "rank 1 died"
        assert app.stop() < 10
        assert "Traceback" not in app.log().split("rank 1 died")[0], app.log()


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proc_stat, "PROC", tmp_path / "proc")


def test_ps_tells_of_processes(no_proc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not proc_stat.has_proc()
    child = subprocess.Popen(SLEEPER)
    try:
        running = read_process(child.pid)
        assert running is not None and running.state in "RSD" and running.parent == os.getpid()
        assert "time.sleep(60)" in read_command(child.pid)
        assert child.pid in children_of(os.getpid())
        child.kill()
        wait_for(lambda: read_process(child.pid) != running, 5)
        ended = read_process(child.pid)
        assert ended is not None and ended.state == "Z", "nobody has asked how it ended"
    finally:
        child.kill()
        child.wait()
    assert read_process(child.pid) is None and read_command(child.pid) == ""
    monkeypatch.setenv("PATH", "")
    unknown = read_process(os.getpid())
    assert unknown is not None and unknown.state == "S", "without ps nobody is taken for dead"


def look_at_ranks(group: Group) -> list[int]:
    proc_stat.PROC = Path("/nowhere")
    assert group.watchdog is not None
    dead = group.watchdog.dead_ranks(reaped=False)
    group.agree([0.0])
    return dead


def test_live_ranks_are_not_taken_for_dead() -> None:
    assert run_group(2, look_at_ranks) == [[], []]


END_WITH_PARENT = """
import os, subprocess, sys, time
if len(sys.argv) == 1:
    print(subprocess.Popen([sys.executable, __file__, "child"]).pid, flush=True)
else:
    os.environ["TORCHELASTIC_RUN_ID"] = "x"
    from wanvae_app.cli.processes import end_with_parent
    sys.platform = "darwin"
    end_with_parent()
    print("watches", flush=True)
time.sleep(60)
"""


def test_a_rank_ends_with_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(END_WITH_PARENT)
    parent = subprocess.Popen([sys.executable, script], env=surroundings(), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as lines:
        child = int(lines.readline())
        assert lines.readline() == "watches\n"
        parent.kill()
        parent.wait()
        wait_for(lambda: (stat := read_process(child)) is None or stat.state == "Z", 10)


def test_memory_is_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_file)
    cpu, used = torch.device("cpu"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(device.sys, "platform", "linux")
    assert device.peak_bytes(cpu) >= 1024 * used
    monkeypatch.setattr(device.sys, "platform", "darwin")
    assert used <= device.peak_bytes(cpu) < 100 * used


def test_another_libc_than_glibc_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: object())
    device.set_up(torch.device("cpu"), local_size=1)
    device.tidy_up(torch.device("cpu"))


def test_a_reader_gets_all_limits_but_that_of_its_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS refuses RLIMIT_AS, and has no /proc that tells how much there is already."""
    asked = []

    def setrlimit(kind: int, _: tuple[int, int]) -> None:
        asked.append(kind)
        raise ValueError("a limit that this system refuses")

    monkeypatch.setattr(limits.sys, "platform", "darwin")
    monkeypatch.setattr(limits, "_address_space", lambda: pytest.fail("asked for /proc"))
    monkeypatch.setattr(limits.resource, "setrlimit", setrlimit)
    limits.limits_for(1000).apply()
    assert resource.RLIMIT_AS not in asked and {resource.RLIMIT_CPU, resource.RLIMIT_NOFILE} < set(asked)


def test_frames_are_read_without_preadv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(frame_log.os, "preadv")
    frames = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).view(2, 3, 4, 3).numpy()
    log = FrameLog(3, 4, tmp_path)
    log.append(frames)
    assert (log.read(0, 2) == frames).all() and (log.read(1, 2) == frames[1:]).all()
    log.close()


def test_a_limit_that_macos_refuses_is_asked_for_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        asked.append(limits[0])
        if limits[0] > 10240:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(connections.resource, "getrlimit", lambda kind: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(connections.resource, "setrlimit", setrlimit)
    connections.raise_file_limit()
    assert asked == [65536, 10240]


def test_the_launcher_needs_no_sha256sum(tmp_path: Path) -> None:
    """launch.sh with a Python that does nothing, and a shasum in place of sha256sum."""
    for name in ("launch.sh", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cut", "dirname"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (tools / name).symlink_to(found)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for path, text in (
        (python, "exit 0"),
        (tools / "shasum", 'cat >/dev/null; [ "$*" = "-a 256" ] && echo "a1b2  -"'),
    ):
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o700)
    subprocess.run([tools / "bash", tmp_path / "launch.sh"], env={"PATH": str(tools)}, check=True, timeout=20)
    assert (tmp_path / ".venv" / "installed").read_text() == "a1b2\n"
