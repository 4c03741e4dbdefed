"""Checks the app on many ranks, as launch.sh starts it and gradio_client drives it. many_gpus.py runs this as a step.

    python tests/support/many_ranks_app.py --gpus 8 --log app.log

Streams one job, stops another, and kills a rank during a third.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from gradio_client import Client, handle_file
from support.app_runner import ROOT, App, wait_for

from wanvae_app.cli.ports import free_port

SAMPLE = ROOT / "assets" / "samples" / "Rolling marbles.safetensors"  # 256x256x17
START = 60.0  # seconds until the page answers
RESTART = 60.0  # seconds until it answers again after a rank was killed
READY = 45.0  # seconds until the ranks are free after a job was stopped


class LaunchedApp(App):
    """The app under `python -m wanvae_app.cli.launch`; `where` is its --gpus N or --cpu N."""

    def __init__(self, log: Path, where: list[str]) -> None:
        port = free_port()
        command = [sys.executable, "-m", "wanvae_app.cli.launch", *where, "--port", str(port)]
        self._start(log, port, command, {})


class Checks:
    """The checks, in the order in which they run. Each returns a sentence about what it found, or raises
    AssertionError."""

    def __init__(self, app: App, num_ranks: int, gpus: bool, folder: Path) -> None:
        self.app = app
        self.num_ranks = num_ranks
        self.folder = folder
        self.streamed, self.long = SAMPLE, folder / "long.npy"
        # So long that a stop comes before its end: 4,093 small frames, on a CPU 253.
        self._noise(self.long, 1024 if gpus else 64, 32, 32)
        if gpus:  # 480x832x321, for many updates
            self.streamed = folder / "streamed.npy"
            self._noise(self.streamed, 81, 60, 104)

    def start(self) -> str:
        """Wait for the page."""
        self.app.wait_ready(START)
        return f"ready at {self.app.url}"

    def stream(self) -> str:
        """Run a job on all ranks and count its frames as they come."""
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
        """Stop a running job by the route of the page's Stop button."""
        job, state = self._running()
        start = time.monotonic()
        stop = urllib.request.Request(f"{self.app.url}/live/{state['job']}/stop", method="POST")
        urllib.request.urlopen(stop, timeout=10).close()
        state = [state, *(update for update, *_ in job)][-1]
        seconds = time.monotonic() - start
        assert state["state"] == "stopped", state
        wait_for(lambda: (self.app.health() or {}).get("state") == "ready", READY, self.app)
        return f"stopped after {state['frames']} of {state['num_frames']} frames, told {seconds:.2f} s later"

    def kill(self) -> str:
        """Send SIGKILL to the last rank during a job. The app must come back on the same address, and work."""
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
        """Start the long job; it, and its first state with frames."""
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


def passes(check: Callable[[], str]) -> bool:
    """Run a check, print its result, and return whether it passed."""
    start = time.monotonic()
    try:
        sentence, passed = check(), True
    except Exception as error:
        sentence, passed = f"{type(error).__name__}: {error}", False
    seconds = time.monotonic() - start
    print(f"{'PASS' if passed else 'FAIL'} app: {check.__name__}, {seconds:.1f} s: {sentence}", flush=True)
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--gpus", type=int, metavar="N")
    parser.add_argument("--cpu", type=int, metavar="N")
    parser.add_argument("--log", type=Path, required=True, help="what the app prints")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # stops the app in `finally`
    num_ranks = args.cpu or args.gpus
    where = ["--cpu", str(args.cpu)] if args.cpu else ["--gpus", str(args.gpus)]
    with tempfile.TemporaryDirectory(prefix="many-ranks-") as folder:
        app = LaunchedApp(args.log, where)
        try:
            checks = Checks(app, num_ranks, not args.cpu, Path(folder))
            passed = passes(checks.start)
            if passed:  # run all the others, even if one fails
                passed = all([passes(check) for check in (checks.stream, checks.stop, checks.kill)])
        finally:
            with contextlib.suppress(AssertionError):  # `stop` has killed what was left
                app.stop(timeout=20)
    sys.stdout.flush()
    os._exit(not passed)  # gradio_client's threads may wait for ever for the job whose rank was killed


if __name__ == "__main__":
    main()
