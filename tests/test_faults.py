"""Faults of the real app under torchrun: what the page says, and how soon it works again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.app_runner import ROOT, App, running_app, wait_for

RIGGED = ROOT / "tests" / "rigged_app.py"
MESSAGE = 10.0  # seconds within which the page must name rank and reason
BACK = 40.0  # seconds; 15 on a machine that has nothing else to do


class Page:
    """What a page asks of the app, without a browser."""

    def __init__(self, app: App, rig: Path) -> None:
        self.app = app
        self.rig = rig

    def order(self, fault: str, text: str = "") -> Path:
        """Have a fault happen; see rigged_app.py."""
        path = self.rig / fault
        path.write_text(text)
        return path

    def ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        request = urllib.request.Request(f"{self.app.url}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def start(self, **wish: int) -> str:
        """Start a run; returns its id."""
        query = "&".join(f"{name}={int(value)}" for name, value in wish.items())
        return self.ask(f"rig/run?{query}", "POST")["id"]

    def state(self, run: str) -> dict[str, Any]:
        return self.ask(f"live/{run}/state")

    def end(self, run: str, timeout: float = 30) -> dict[str, Any]:
        """The run's state when it has ended."""
        ended = ("finished", "failed", "stopped")
        wait_for(lambda: self.state(run)["state"] in ended, timeout, self.app)
        return self.state(run)

    def works(self) -> str:
        """A run comes to its good end; its id."""
        run = self.start(latents=3)
        state = self.end(run)
        assert state["state"] == "finished" and state["frames"] == 9, state
        return run


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """An app for the faults that it survives without a restart."""
    folder = tmp_path_factory.mktemp("steady")
    with running_app(folder / "log", script=RIGGED, environment={"RIG": str(folder)}) as app:
        yield Page(app, folder)


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """An app for the faults after which torchrun restarts its ranks."""
    folder = tmp_path_factory.mktemp("restarted")
    environment = {"RIG": str(folder)}
    with running_app(folder / "log", script=RIGGED, environment=environment, max_restarts=9) as app:
        yield Page(app, folder)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("where", ["raise", "inside", "gather", "pixels", "finish"])
def test_an_exception_is_told_and_the_next_run_works(steady: Page, where: str, rank: int) -> None:
    chunk = 0 if where == "finish" else 2
    steady.order(f"{where}-{rank}-{chunk}", f"no memory for {where}")
    start = time.monotonic()
    state = steady.end(steady.start(latents=5, video=where == "gather"))
    assert time.monotonic() - start < MESSAGE
    assert state["state"] == "failed"
    assert f"Rank {rank} failed" in state["message"] and f"no memory for {where}" in state["message"], state
    steady.works()
    assert "Traceback" in steady.app.log() and "being restarted" not in steady.app.log()


@pytest.mark.parametrize("rank", [0, 1])
def test_what_does_not_fit_into_memory_is_refused_before_it_starts(steady: Page, rank: int) -> None:
    steady.order(f"free-{rank}-0", "1000000")
    state = steady.end(steady.start(latents=5, chunk=4))
    assert (state["state"], state["frames"], state["activity"]) == ("failed", 0, [])
    told = rf"Rank {rank} would need 0\.\d GiB for this and has 0\.0 GiB free; .+ would fit\."
    assert re.fullmatch(told, state["message"]), state["message"]
    steady.works()


def test_a_run_leaves_one_line_in_the_log(steady: Page) -> None:
    run = steady.works()
    line = rf"rank 0 INFO job {run[:8]}: decode of \d+x3x8x6 to 9 of 9 frames 48x64, 2 ranks, chunk 1, "
    assert len(re.findall(line + r"[\d.]+ s, [\d.]+ fps: finished", steady.app.log())) == 1
    steady.order("raise-1-2", "no more room")
    run = steady.start(latents=3)
    steady.end(run)
    line = rf"rank 0 INFO job {run[:8]}: decode .* 2 ranks, .*: failed: Rank 1 failed .*no more room"
    assert len(re.findall(line, steady.app.log())) == 1
    assert len(re.findall(rf"job {run[:8]}: decode", steady.app.log())) == 1
    traceback = rf"rank 1 ERROR job {run[:8]}: Rank 1 failed.*\nTraceback"
    assert len(re.findall(traceback, steady.app.log())) == 1


def test_frames_are_watched_while_the_decode_is_held_and_stop_ends_it(steady: Page) -> None:
    hold = steady.order("hold-1-3")
    run = steady.start(latents=8)
    wait_for((steady.rig / "held-1-3").exists, 20, steady.app)
    wait_for(lambda: steady.state(run)["frames"] == 5, 5, steady.app)
    assert steady.state(run)["state"] == "running"
    steady.ask(f"live/{run}/stop", "POST")
    hold.unlink()
    state = steady.end(run)
    assert state["state"] == "stopped" and state["frames"] == 9, state
    steady.works()


def test_ctrl_c_in_the_middle_of_a_run_leaves_nothing(steady: Page) -> None:
    leaves_nothing(steady, signal.SIGINT)


def is_back(page: Page, boot: str) -> float:
    """Wait for another server than `boot` on the same address; returns the seconds until a run has worked."""
    start = time.monotonic()
    wait_for(lambda: (page.app.health() or {}).get("boot", boot) != boot, 60, page.app)
    page.works()
    return time.monotonic() - start


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_comes_back_and_results_are_still_there(restarted: Page, rank: int) -> None:
    finished = restarted.works()
    boot = restarted.ask("health")["boot"]
    restarted.order(f"kill-{rank}-2")
    restarted.start(latents=5)
    seconds = is_back(restarted, boot)
    print(f"rank {rank} killed: a run has worked again after {seconds:.1f} s")
    assert seconds < BACK
    state = restarted.state(finished)
    assert state["state"] == "finished" and "restarted" in state["message"], state
    with urllib.request.urlopen(f"{restarted.app.url}/live/{finished}/video.mp4", timeout=10) as answer:
        assert len(answer.read()) > 0
    if rank == 1:
        restarted.app.wait_log("The ranks were restarted: rank 1 died.")


def test_an_idle_rank_that_is_killed_comes_back(restarted: Page) -> None:
    boot = restarted.ask("health")["boot"]
    os.kill(restarted.app.rank_pid(1), signal.SIGKILL)
    seconds = is_back(restarted, boot)
    print(f"idle rank 1 killed: a run has worked again after {seconds:.1f} s")
    assert seconds < BACK


def test_a_stopped_rank_is_replaced(restarted: Page) -> None:
    boot = restarted.ask("health")["boot"]
    hold = restarted.order("hold-0-2")
    restarted.start(latents=5)
    wait_for((restarted.rig / "held-0-2").exists, 20, restarted.app)
    os.kill(restarted.app.rank_pid(1), signal.SIGSTOP)
    hold.unlink()
    seconds = is_back(restarted, boot)
    print(f"rank 1 stopped: a run has worked again after {seconds:.1f} s")
    restarted.app.wait_log("The ranks were restarted: rank 1 gave no sign of life")
    assert seconds < BACK


def test_a_rank_that_hangs_is_replaced(restarted: Page) -> None:
    boot = restarted.ask("health")["boot"]
    restarted.order("hang-1-2")
    restarted.start(latents=5)
    seconds = is_back(restarted, boot)
    print(f"rank 1 hung: a run has worked again after {seconds:.1f} s")
    restarted.app.wait_log("The ranks were restarted: rank 1 was stuck for 5 s in decoding chunk 2.")
    assert seconds < BACK


def test_sigterm_in_the_middle_of_a_run_leaves_nothing(restarted: Page) -> None:
    leaves_nothing(restarted, signal.SIGTERM)


def test_nothing_is_left_when_torchrun_is_killed(tmp_path: Path) -> None:
    app = App(tmp_path / "log", script=RIGGED, environment={"RIG": str(tmp_path)})
    try:
        app.wait_ready()
        leaves_nothing(Page(app, tmp_path), signal.SIGKILL)
    finally:
        app.stop()


def leaves_nothing(page: Page, number: int) -> None:
    """End the app by a signal to torchrun while a run is on: no process remains, no file, and nobody's upload."""
    page.order("hold-1-2")
    page.start(latents=5)
    wait_for((page.rig / "held-1-2").exists, 20, page.app)
    folder = Path(tempfile.gettempdir()) / f"wanvae-{os.getuid()}-{page.app.process.pid}"
    given = httpx.post(
        f"{page.app.url}/gradio_api/upload", files={"files": ("private.pt", b"a latent")}
    ).json()
    assert Path(given[0]).is_file() and Path(given[0]).is_relative_to(folder), given
    seconds = page.app.stop(number, timeout=5)
    print(f"{signal.Signals(number).name}: nothing left after {seconds:.1f} s")
    assert not folder.exists()


def test_a_wrong_option_ends_torchrun(tmp_path: Path) -> None:
    app = App(tmp_path / "log", arguments=["--dtype", "int8"], max_restarts=100)
    try:
        wait_for(lambda: app.process.poll() is not None and not app.pids(), 60, app)
    finally:
        app.stop()
    assert app.process.returncode != 0 and "Traceback" not in app.log()
    assert 1 <= app.log().count("error: argument --dtype: invalid choice: 'int8'") <= 2, (
        "not at every restart"
    )


@pytest.mark.parametrize("reason", ["/nowhere", "port"])
def test_what_cannot_start_says_so_in_a_sentence(tmp_path: Path, reason: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["--vae", "/nowhere"] if reason == "/nowhere" else ["--port", port]
        app = App(tmp_path / "log", arguments=arguments)
        try:
            wait_for(lambda: app.process.poll() is not None and not app.pids(), 60, app)
        finally:
            app.stop()
    assert app.process.returncode != 0
    sentences = [line for line in app.log().splitlines() if "cannot start" in line]
    assert len(sentences) == 1 and sentences[0].startswith("Rank 0 cannot start:"), app.log()
    assert reason in sentences[0] and "Traceback" not in app.log(), app.log()
