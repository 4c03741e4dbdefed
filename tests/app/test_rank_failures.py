"""The whole app under torchrun, without a browser: ranks that fail, hang or die, and signals that end the app.

What is told, how soon the app works again, and that nothing is left behind.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.app_runner import App, running_app, wait_for
from support.rigged_client import RIGGED_APP, Client

TOLD_WITHIN = 10.0  # seconds until rank and reason of a failure are known
BACK_WITHIN = 40.0  # seconds until a restarted app has decoded; 15 on an idle machine


@pytest.fixture(scope="module")
def surviving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The client of an app for the faults that need no restart."""
    folder = tmp_path_factory.mktemp("surviving")
    with running_app(folder / "log", script=RIGGED_APP, environment={"RIG": str(folder)}) as app:
        yield Client(app, folder)


@pytest.fixture(scope="module")
def restarting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The client of an app for the faults after which torchrun restarts the ranks."""
    folder = tmp_path_factory.mktemp("restarting")
    environment = {"RIG": str(folder), "RIG_LIMIT": "4"}
    with running_app(folder / "log", script=RIGGED_APP, environment=environment, max_restarts=9) as app:
        yield Client(app, folder)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("where", ["raise", "halo", "gather", "to_uint8", "finish"])
def test_an_exception_is_told_and_the_next_run_works(surviving: Client, where: str, rank: int) -> None:
    chunk = 0 if where == "finish" else 2
    surviving.order(f"{where}-{rank}-{chunk}", f"no memory for {where}")
    start = time.monotonic()
    state = surviving.wait_until_ended(surviving.start(latents=5, video=where == "gather"))
    assert time.monotonic() - start < TOLD_WITHIN
    assert state["state"] == "failed"
    assert f"Rank {rank} failed" in state["message"] and f"no memory for {where}" in state["message"], state
    failed = time.monotonic()
    surviving.decode()
    print(f"rank {rank} failed in {where}: decoded again after {time.monotonic() - failed:.1f} s")
    assert "Traceback" in surviving.app.log() and "being restarted" not in surviving.app.log()


@pytest.mark.parametrize("rank", [0, 1])
def test_what_does_not_fit_into_memory_is_refused_before_it_starts(surviving: Client, rank: int) -> None:
    surviving.order(f"free-{rank}-0", "1000000")
    state = surviving.wait_until_ended(surviving.start(latents=5, chunk=4))
    assert (state["state"], state["frames"], state["activity"]) == ("failed", 0, [])
    told = rf"Rank {rank} would need 0\.\d GiB for this and has 0\.0 GiB free; .+ would fit\."
    assert re.fullmatch(told, state["message"]), state["message"]
    surviving.decode()


def test_a_run_leaves_one_line_in_the_log(surviving: Client) -> None:
    run = surviving.decode()
    line = rf"rank 0 INFO job {run[:8]}: decode of \d+x3x8x6 to 9 of 9 frames 48x64, 2 ranks, chunk 1, "
    assert len(re.findall(line + r"[\d.]+ s, [\d.]+ fps: finished", surviving.app.log())) == 1
    surviving.order("raise-1-2", "no more room")
    run = surviving.start(latents=3)
    surviving.wait_until_ended(run)
    line = rf"rank 0 INFO job {run[:8]}: decode .* 2 ranks, .*: failed: Rank 1 failed .*no more room"
    assert len(re.findall(line, surviving.app.log())) == 1
    assert len(re.findall(rf"job {run[:8]}: decode", surviving.app.log())) == 1
    traceback = rf"rank 1 ERROR job {run[:8]}: Rank 1 failed.*\nTraceback"
    assert len(re.findall(traceback, surviving.app.log())) == 1


def test_frames_are_watched_while_the_decode_is_held_and_stop_ends_it(surviving: Client) -> None:
    hold = surviving.order("hold-1-3")
    run = surviving.start(latents=8)
    wait_for((surviving.rig / "held-1-3").exists, 20, surviving.app)
    wait_for(lambda: surviving.state(run)["frames"] == 5, 5, surviving.app)
    assert surviving.state(run)["state"] == "running"
    surviving.ask(f"live/{run}/stop", "POST")
    hold.unlink()
    state = surviving.wait_until_ended(run)
    assert state["state"] == "stopped" and state["frames"] == 9, state
    surviving.decode()


def test_ctrl_c_in_the_middle_of_a_run_leaves_nothing(surviving: Client) -> None:
    end_by_signal(surviving, signal.SIGINT)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_comes_back_and_results_are_still_there(restarting: Client, rank: int) -> None:
    finished = restarting.decode()
    boot = restarting.ask("health")["boot"]
    begin = len(restarting.app.log())
    restarting.order(f"kill-{rank}-2")
    restarting.start(latents=5)
    seconds = restarting.seconds_until_back(boot)
    assert "Traceback" not in restarting.app.log()[begin:], (
        "the connections that a dead rank closes are no fault"
    )
    print(f"rank {rank} killed: decoded again after {seconds:.1f} s")
    assert seconds < BACK_WITHIN
    state = restarting.state(finished)
    assert state["state"] == "finished" and "restarted" in state["message"], state
    with urllib.request.urlopen(f"{restarting.app.url}/live/{finished}/video.mp4", timeout=10) as answer:
        assert len(answer.read()) > 0
    if rank == 1:
        restarting.app.wait_log("The ranks were restarted: rank 1 died.")


def test_an_idle_rank_that_is_killed_comes_back(restarting: Client) -> None:
    boot = restarting.ask("health")["boot"]
    os.kill(restarting.app.rank_pid(1), signal.SIGKILL)
    seconds = restarting.seconds_until_back(boot)
    print(f"idle rank 1 killed: decoded again after {seconds:.1f} s")
    assert seconds < BACK_WITHIN


def test_a_stopped_rank_is_replaced(restarting: Client) -> None:
    boot = restarting.ask("health")["boot"]
    hold = restarting.order("hold-0-2")
    restarting.start(latents=5)
    wait_for((restarting.rig / "held-0-2").exists, 20, restarting.app)
    os.kill(restarting.app.rank_pid(1), signal.SIGSTOP)
    hold.unlink()
    seconds = restarting.seconds_until_back(boot)
    print(f"rank 1 stopped: decoded again after {seconds:.1f} s")
    restarting.app.wait_log("The ranks were restarted: rank 1 gave no sign of life")
    assert seconds < BACK_WITHIN


def test_a_rank_that_hangs_is_replaced(restarting: Client) -> None:
    boot = restarting.ask("health")["boot"]
    restarting.order("hang-1-2")
    restarting.start(latents=5)
    seconds = restarting.seconds_until_back(boot)
    print(f"rank 1 hung: decoded again after {seconds:.1f} s")
    restarting.app.wait_log("The ranks were restarted: rank 1 was stuck for 5 s in decoding chunk 2.")
    assert seconds < BACK_WITHIN


def test_a_device_that_hangs_is_blamed_and_not_the_rank_that_waits_for_it(restarting: Client) -> None:
    boot = restarting.ask("health")["boot"]
    restarting.order("spin-1-2")
    restarting.start(latents=5)
    seconds = restarting.seconds_until_back(boot)
    print(f"rank 1's device hung: decoded again after {seconds:.1f} s")
    told = r"rank 1 was stuck for \d+ s in decoding chunk 2"
    assert re.fullmatch(told, restarting.ask("health")["last_words"])
    assert seconds < BACK_WITHIN


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_device_is_told(restarting: Client, rank: int) -> None:
    boot = restarting.ask("health")["boot"]
    restarting.order(f"lose-{rank}-2", "CUDA error: unknown error")
    restarting.start(latents=5)
    seconds = restarting.seconds_until_back(boot)
    print(f"rank {rank} lost its device: decoded again after {seconds:.1f} s")
    told = f"rank {rank} lost its GPU decoding chunk 2 (CUDA error: unknown error)"
    assert restarting.ask("health")["last_words"] == told
    assert seconds < BACK_WITHIN


def test_sigterm_in_the_middle_of_a_run_leaves_nothing(restarting: Client) -> None:
    end_by_signal(restarting, signal.SIGTERM)


def test_a_single_rank_that_hangs_is_replaced(tmp_path: Path) -> None:
    environment = {"RIG": str(tmp_path)}
    with running_app(tmp_path / "log", num_ranks=1, script=RIGGED_APP, environment=environment) as app:
        client = Client(app, tmp_path)
        boot = client.ask("health")["boot"]
        client.order("hang-0-2")
        client.start(latents=5)
        print(f"the only rank hung: decoded again after {client.seconds_until_back(boot):.1f} s")
        assert client.ask("health")["last_words"] == "rank 0 was stuck for 5 s in decoding chunk 2"


def test_nothing_is_left_when_torchrun_is_killed(tmp_path: Path) -> None:
    app = App(tmp_path / "log", script=RIGGED_APP, environment={"RIG": str(tmp_path)})
    try:
        app.wait_ready()
        end_by_signal(Client(app, tmp_path), signal.SIGKILL)
    finally:
        app.stop()


def end_by_signal(client: Client, number: int) -> None:
    """Signal torchrun while a run is being worked on; check that no process, file or upload is left."""
    client.order("hold-1-2")
    client.start(latents=5)
    wait_for((client.rig / "held-1-2").exists, 20, client.app)
    (folder,) = Path(tempfile.gettempdir()).glob(f"wanvae-{os.getuid()}-{client.app.process.pid}-*")
    given = httpx.post(
        f"{client.app.url}/gradio_api/upload", files={"files": ("private.pt", b"a latent")}
    ).json()
    assert Path(given[0]).is_file() and Path(given[0]).is_relative_to(folder), given
    seconds = client.app.stop(number, timeout=5)
    print(f"{signal.Signals(number).name}: nothing left after {seconds:.1f} s")
    assert not folder.exists()
