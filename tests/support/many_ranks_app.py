"""The app as launch.sh starts it, on many ranks, driven by gradio_client: a job that is streamed, one that is stopped,
and a rank that is killed. A step of many_gpus.py:

    python tests/support/many_ranks_app.py --gpus 8 --log app.log
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from gradio_client import Client, handle_file
from support.app_runner import ROOT, App, surroundings, wait_for

from wanvae_app.cli.ports import free_port

SAMPLE = ROOT / "assets" / "samples" / "Rolling marbles.safetensors"  # 256x256x17
START, RESTART, JOB = 60.0, 60.0, 45.0  # seconds within which it must be there


class Launched(App):
    """The app under `python -m wanvae_app.cli.launch`; `where` is its --gpus N or --cpu N."""

    def __init__(self, log: Path, where: list[str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = log
        self._mark = uuid.uuid4().hex
        command = [sys.executable, "-m", "wanvae_app.cli.launch", *where, "--port", str(self.port)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=surroundings(TEST_MARK=self._mark), stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip


class Driver:
    """What is done to the app; each method returns what it found, or raises AssertionError."""

    def __init__(self, app: App, num_ranks: int, gpus: bool, folder: Path) -> None:
        self.app = app
        self.num_ranks = num_ranks
        self.folder = folder
        self.streamed, self.long = SAMPLE, folder / "long.npy"
        # Long enough that a stop comes in the middle: 4,093 small frames, or on a CPU 253.
        self._noise(self.long, 1024 if gpus else 64, 32, 32)
        if gpus:  # enough for many updates: 480x832x321
            self.streamed = folder / "streamed.npy"
            self._noise(self.streamed, 81, 60, 104)

    def start(self) -> str:
        self.app.wait_ready(START)
        return f"ready at {self.app.url}"

    def stream(self) -> str:
        """A job on all ranks whose frames are counted as they come."""
        start, first, counts = time.monotonic(), 0.0, [0]
        state: dict[str, Any] = {}
        job = self._submit(self.streamed)
        for state, *_ in job:
            if state["frames"] > counts[-1]:
                first = first or time.monotonic() - start
                counts.append(state["frames"])
        assert state["state"] == "finished" and counts[-1] == state["num_frames"], state
        assert len(counts) > 2, "all frames came at once"
        assert state["ranks"] == self.num_ranks, f"{state['ranks']} ranks had a part in it"
        return (
            f"{counts[-1]} frames {state['height']}x{state['width']} on {state['ranks']} ranks in "
            f"{len(counts) - 1} updates, the first after {first:.2f} s, with the upload; "
            f"{state['elapsed']:.2f} s of work, {state['rate']:.0f} frames/s"
        )

    def stop(self) -> str:
        """What the page's Stop does, in the middle of a job."""
        job, state = self._running()
        start = time.monotonic()
        stop = urllib.request.Request(f"{self.app.url}/live/{state['job']}/stop", method="POST")
        urllib.request.urlopen(stop, timeout=10).close()
        state = [state, *(update for update, *_ in job)][-1]
        seconds = time.monotonic() - start
        assert state["state"] == "stopped", state
        wait_for(lambda: (self.app.health() or {}).get("state") == "ready", JOB, self.app)
        return f"stopped after {state['frames']} of {state['num_frames']} frames, told {seconds:.2f} s later"

    def kill(self) -> str:
        """SIGKILL to the last rank in the middle of a job: the app comes back on the same address, and works."""
        self._running()
        boot = (self.app.health() or {}).get("boot")
        rank = self.num_ranks - 1
        os.kill(self.app.rank_pid(rank), signal.SIGKILL)

        def back() -> bool:
            health = self.app.health() or {}
            return health.get("state") == "ready" and health.get("boot") != boot

        seconds = wait_for(back, RESTART, self.app)
        state, *_ = self._submit(SAMPLE).result()
        assert state["state"] == "finished" and state["frames"] == 17, state
        return f"rank {rank} killed, healthy again after {seconds:.1f} s, and a job works"

    def _submit(self, path: Path) -> Any:
        client = Client(self.app.url, verbose=False, download_files=self.folder)
        return client.submit(handle_file(path), True, 1, "Auto", api_name="/run")

    def _running(self) -> tuple[Iterator[Any], dict[str, Any]]:
        """The long job, and its state once there are frames."""
        job = iter(self._submit(self.long))
        for state, *_ in job:
            if state["frames"]:
                assert state["state"] == "running", state
                return job, state
        raise AssertionError("the job ended without a frame")

    def _noise(self, path: Path, num_latents: int, height: int, width: int) -> None:
        np.save(
            path, np.random.default_rng(0).standard_normal((1, 16, num_latents, height, width), np.float32)
        )


def attempt(step: Callable[[], str]) -> bool:
    """Take a step and print what came of it."""
    start = time.monotonic()
    try:
        words, passed = step(), True
    except Exception as error:
        words, passed = f"{type(error).__name__}: {error}", False
    seconds = time.monotonic() - start
    print(f"{'PASS' if passed else 'FAIL'} app: {step.__name__}, {seconds:.1f} s: {words}", flush=True)
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--gpus", type=int, metavar="N")
    parser.add_argument("--cpu", type=int, metavar="N")
    parser.add_argument("--log", type=Path, required=True, help="what the app prints")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of the app's end
    num_ranks = args.cpu or args.gpus
    where = ["--cpu", str(args.cpu)] if args.cpu else ["--gpus", str(args.gpus)]
    with tempfile.TemporaryDirectory(prefix="many-ranks-") as folder:
        app = Launched(args.log, where)
        try:
            driver = Driver(app, num_ranks, not args.cpu, Path(folder))
            passed = attempt(driver.start)
            if passed:
                passed = all([attempt(step) for step in (driver.stream, driver.stop, driver.kill)])
        finally:
            with contextlib.suppress(AssertionError):  # it was killed then
                app.stop(timeout=20)
    sys.stdout.flush()
    os._exit(not passed)  # gradio_client's threads may still wait for the job whose rank was killed


if __name__ == "__main__":
    main()
