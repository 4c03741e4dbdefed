"""The whole app on one GPU and on two, as torchrun starts it, on bad days: what is told, and how soon it works again.

    python -m pytest tests/app/test_gpu_failures.py -s      # -s shows the seconds; needs Gradio

Without a GPU, the same faults as a CPU has them stand in test_rank_failures.py.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from support.app_runner import ROOT, App, wait_for
from support.rigged_client import RIGGED_APP, Client

NUM_GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(NUM_GPUS == 0, reason="no CUDA GPU here")
pytest.importorskip("gradio")

SAMPLE = ROOT / "assets" / "samples" / "Rolling marbles.safetensors"
START = 240.0  # seconds until the page answers and the ranks are warm; kernels are compiled once
LIMIT = float(os.environ.get("GPU_LIMIT", 20))  # seconds for a chunk, in place of the watchdog's 60
BACK_WITHIN = LIMIT + 90.0  # seconds from a fault to a decoded run; 40 beyond the limit on an idle machine


@pytest.fixture(scope="module", params=[1, 2], ids=["1gpu", "2gpus"])
def gpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The client of an app on so many GPUs."""
    if request.param > NUM_GPUS:
        pytest.skip(f"{NUM_GPUS} GPU here")
    folder = tmp_path_factory.mktemp(f"gpus-{request.param}")
    options = {
        "script": RIGGED_APP,
        "num_ranks": request.param,
        "device": "cuda",
        "environment": {"RIG": str(folder), "RIG_LIMIT": str(LIMIT)},
        "max_restarts": 20,
    }
    app = App(folder / "log", **options)  # type: ignore[arg-type]
    try:
        app.wait_ready()
        client = Client(app, folder)
        client.wait_until_ended(client.start(latents=3), START)
        yield client
    finally:  # on one H200 and on two it took 30 s once, after which torchrun kills
        looks = threading.Timer(8, show_threads, [app])
        looks.start()
        print(f"ended {app.stop(timeout=60):.1f} s after SIGTERM")
        looks.cancel()
        print(f"\n--- the app's log on {request.param} GPUs ---\n{app.log()[-12000:]}")


def show_threads(app: App) -> None:
    """Let the ranks print where all their threads are."""
    for rank in range(app.num_ranks):
        os.kill(app.rank_pid(rank), signal.SIGUSR1)


def skip_unless_there(client: Client, rank: int) -> None:
    if rank >= client.app.num_ranks:
        pytest.skip("there is one rank")


@pytest.mark.parametrize("rank", [0, 1])
def test_another_program_takes_all_memory(gpus: Client, rank: int) -> None:
    skip_unless_there(gpus, rank)
    gpus.order(f"memory-{rank}-2")
    state = gpus.wait_until_ended(gpus.start(latents=5, height=60, width=104), 120)
    start = time.monotonic()
    assert state["state"] == "failed", state
    assert state["message"].startswith(f"Rank {rank} failed decoding chunk "), state["message"]
    assert "out of memory" in state["message"], state["message"]
    gpus.decode()
    print(f"rank {rank} out of memory: decoded again after {time.monotonic() - start:.1f} s")
    assert gpus.ask("health")["state"] == "ready"


FAULTS = {  # by the fault that rigged_app.py knows: what the page says of it, of rank N
    "lose": r"rank {rank} lost its GPU decoding chunk \d \(.*illegal memory access.*\)",
    "spin": r"rank {rank} was stuck for \d+ s in (decoding chunk \d|sending frames)",
    "hang": r"rank {rank} was stuck for \d+ s in decoding chunk 3",
}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_ranks_are_restarted_and_nothing_is_lost(gpus: Client, fault: str, rank: int) -> None:
    skip_unless_there(gpus, rank)
    uploaded = gpus.upload(SAMPLE)
    assert '"finished"' in gpus.run_upload(uploaded)
    finished = gpus.decode()
    boot = gpus.ask("health")["boot"]
    gpus.order(f"{fault}-{rank}-3")
    gpus.start(latents=6)
    wait_for(lambda: not (gpus.rig / f"{fault}-{rank}-3").exists(), 30, gpus.app)
    seconds = gpus.seconds_until_back(boot, BACK_WITHIN)
    health = gpus.ask("health")
    print(
        f"rank {rank}, {fault}: decoded again after {seconds:.1f} s, limit {LIMIT:g} s: {health['last_words']}"
    )
    assert health["state"] == "ready"
    if not re.fullmatch(FAULTS[fault].format(rank=rank), health["last_words"]):
        print(gpus.app.log()[-12000:])
    assert re.fullmatch(FAULTS[fault].format(rank=rank), health["last_words"]), health
    gpus.app.wait_log(f"The ranks were restarted: {health['last_words']}.")
    assert seconds < BACK_WITHIN
    assert gpus.state(finished)["state"] == "finished"
    assert '"finished"' in gpus.run_upload(uploaded), "the upload is still there"
