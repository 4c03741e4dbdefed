"""One job on the ranks of two torchrun agents, each launched by the README's command for one of two machines."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from gradio_client import Client, handle_file
from support.app_runner import ROOT, launched, wait_for

from wanvae_app.cli.ports import free_port

SAMPLE = ROOT / "assets" / "samples" / "Rolling marbles.safetensors"


def machine(
    rank: int, master_port: int, port: int, log: Path
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Launch machine `rank` of two, with one rank on the CPU."""
    where = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", "127.0.0.1"]
    return launched(log, "--cpu", "1", "--port", str(port), *where, "--master-port", str(master_port))


def test_a_job_on_two_machines(tmp_path: Path) -> None:
    master_port, port = free_port(), free_port()
    logs = [tmp_path / "0", tmp_path / "1"]
    with machine(0, master_port, port, logs[0]) as first, machine(1, master_port, port, logs[1]) as second:
        wait_for(lambda: "Ready: " in logs[0].read_text() or first.poll() is not None, 90)
        assert first.poll() is None, logs[0].read_text() + logs[1].read_text()
        client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=tmp_path)
        for parallel in (True, False):
            state, *_ = client.predict(handle_file(SAMPLE), parallel, 2, "Auto", api_name="/run")
        assert [row["ranks"] for row in state["rows"]] == [2, 1]
        assert state["comparison"]["max_abs"] <= 1
        os.killpg(first.pid, signal.SIGTERM)
        wait_for(lambda: first.poll() is not None and second.poll() is not None, 60)
