"""Files for `decode` and `encode`, and their programs as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.app_runner import ROOT, surroundings
from support.tiny import some_latent

END = 15.0  # seconds for all ranks to end after a signal, on a loaded machine


def latent_file(path: Path, num_latents: int = 2, height: int = 4, width: int = 3) -> Path:
    """Write a normalised latent as a file of this name; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    latent = some_latent(num_latents, height, width)
    if path.suffix == ".safetensors":
        save_file({"latent": latent}, path, {"scaling": "normalised"})
    else:
        torch.save(latent, path)
    return path


class ClipProgram:
    """`decode` or `encode` as a process in a session of its own, as in a terminal."""

    def __init__(self, log: Path, command: str, *arguments: str | Path) -> None:
        self.log_path = log
        self._mark = uuid.uuid4().hex  # in the environment of all its processes, to find them by
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wanvae_app.cli.clip_launch", command, *map(str, arguments)],
            cwd=ROOT,
            env=surroundings(TEST_MARK=self._mark, OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            start_new_session=True,
            text=True,
        )

    def log(self) -> str:
        """What it has printed on stderr so far."""
        return self.log_path.read_text(errors="replace")

    def interrupt(self) -> None:
        """Send SIGINT to all of its processes, as Ctrl-C does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def finish(self, timeout: float = 60) -> list[dict[str, Any]]:
        """Wait for its end, and that of all its processes; return the lines of JSON on stdout."""
        try:
            text, _ = self.process.communicate(timeout=timeout)
            end = time.monotonic() + END
            while self.pids():
                assert time.monotonic() < end, f"some processes live on:\n{self.log()}"
                time.sleep(0.02)
        finally:
            for pid in self.pids():
                os.kill(pid, signal.SIGKILL)
        return [json.loads(line) for line in text.splitlines()]

    def pids(self, rank: int | None = None) -> list[int]:
        """Its running processes, or that of a rank alone."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
                variables = (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # the process has just ended
            is_rank = f"RANK={rank}".encode() in variables and int(parent) == self.process.pid
            if state != "Z" and f"TEST_MARK={self._mark}".encode() in variables and (rank is None or is_rank):
                found.append(int(path.name))
        return found
