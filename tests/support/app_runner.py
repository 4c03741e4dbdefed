"""The real app under torchrun, for tests: starts it on a free port, waits for it, and stops all its processes.

with running_app(log, num_ranks=2) as app:
    urlopen(app.url)
"""

from __future__ import annotations

import atexit
import functools
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # many_ranks_app.py runs without pytest, which would add it

from wanvae_app.cli.ports import free_port  # noqa: E402

START = 90.0  # seconds until the page answers; a loaded machine imports slowly


class App:
    """One torchrun with its ranks. `script` may be tests/support/rigged_app.py, which reads the folder RIG."""

    def __init__(
        self,
        log: Path,
        *,
        num_ranks: int = 2,
        script: Path = ROOT / "app.py",
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        max_restarts: int = 3,
        device: str = "cpu",
    ) -> None:
        self.num_ranks = num_ranks
        port = free_port()
        command = [sys.executable, "-m", "torch.distributed.run"]
        command += ["--nproc-per-node", str(num_ranks), "--max-restarts", str(max_restarts)]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), str(script)]
        command += ["--device", device, "--port", str(port), *arguments]
        self._start(log, port, command, environment or {})

    def log(self) -> str:
        """What all ranks have printed so far."""
        return self.log_path.read_text(errors="replace")

    def health(self) -> dict[str, str] | None:
        """The answer of /health; None while nothing answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return json.load(answer)
        except (http.client.HTTPException, OSError, ValueError):  # not started, or ending while it answers
            return None

    def wait_ready(self, timeout: float = START) -> None:
        """Wait until the page answers. AssertionError if the app ends."""
        wait_for(lambda: self.health() or self.process.poll() is not None, timeout, self)
        assert self.process.poll() is None, f"the app ended:\n{self.log()}"

    def wait_log(self, text: str, timeout: float = 20) -> None:
        """Wait until a rank has printed `text`."""
        wait_for(lambda: text in self.log(), timeout, self)

    def pids(self) -> list[int]:
        """All running processes of this app: torchrun, the ranks, and their children."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and f"TEST_MARK={self._mark}".encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue  # the process has just ended
        return found

    def rank_pid(self, rank: int) -> int:
        """The process of a rank. AssertionError if it is not running."""
        for pid in self.pids():
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if f"RANK={rank}".encode() in variables and parent == self.process.pid:
                return pid
        raise AssertionError(f"rank {rank} is not running:\n{self.log()}")

    def stop(self, number: int = signal.SIGTERM, timeout: float = 10) -> float:
        """Send torchrun a signal and wait until all processes have ended; returns the seconds.

        AssertionError if some are left after `timeout` seconds; these are killed.
        """
        start = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            wait_for(lambda: self.process.poll() is not None and not self.pids(), timeout, self)
        finally:
            for pid in self.pids():
                os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        return time.monotonic() - start

    def _start(self, log: Path, port: int, command: list[str], environment: dict[str, str]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log_path = log
        self._mark = uuid.uuid4().hex  # in the environment of all its processes, to find them by
        env = surroundings(TEST_MARK=self._mark, **environment)
        env.pop("GRADIO_ANALYTICS_ENABLED", None)  # app.py must set it
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )


@contextmanager
def running_app(log: Path, **options: object) -> Iterator[App]:
    """An app whose page answers; takes the options of App. Stops it at the end."""
    app = App(log, **options)  # type: ignore[arg-type]
    try:
        app.wait_ready()
        yield app
    finally:
        app.stop()


@contextmanager
def launched(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher with these options, in a process group of its own. Stops it at the end."""
    command = [sys.executable, "-m", "wanvae_app.cli.launch", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=surroundings(), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def surroundings(**more: str) -> dict[str, str]:
    """This process's environment with the repository on PYTHONPATH, a cache folder for tests, and `more` variables."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": cache_home(), **more}


@functools.cache
def cache_home() -> str:
    """A folder that is deleted with this process: the runs of tests are nobody's history."""
    path = tempfile.mkdtemp(prefix="wanvae-tests-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def wait_for(condition: Callable[[], object], timeout: float, app: App | None = None) -> float:
    """Poll until the condition holds; returns the seconds. AssertionError with the app's log if that takes too long."""
    start = time.monotonic()
    while not condition():
        seconds = time.monotonic() - start
        assert seconds < timeout, f"not within {timeout:g} s; the log:\n{app.log() if app else ''}"
        time.sleep(0.02)
    return time.monotonic() - start
