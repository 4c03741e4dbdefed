"""Starts that fail: torchrun ends without a restart, after one sentence on stderr."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.app_runner import ROOT, App, wait_for

MAX_SECONDS = 60.0  # of a failed start; 13 on an idle machine, and as long again for a restart of the ranks


def refused(log: Path, **options: Any) -> str:
    """Start an app that must fail; its sentence, without the prefix."""
    start = time.monotonic()
    app = App(log, max_restarts=100, **options)
    try:
        wait_for(lambda: app.process.poll() is not None and not app.pids(), MAX_SECONDS, app)
    finally:
        app.stop()
    sentences = [line for line in app.log().splitlines() if "cannot start" in line]
    print(f"ended after {time.monotonic() - start:.1f} s: {sentences}")
    assert app.process.returncode != 0 and len(sentences) == 1, app.log()
    assert "Traceback" not in app.log() and "estart" not in app.log(), app.log()
    return sentences[0].removeprefix("Rank 0 cannot start: ")


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence = refused(tmp_path / "log", arguments=["--port", str(port)])
    assert sentence.startswith(f"--host 127.0.0.1 --port {port}: cannot listen there (")


def test_more_ranks_than_gpus(tmp_path: Path) -> None:
    num_ranks = torch.cuda.device_count() + 1
    sentence = refused(tmp_path / "log", num_ranks=num_ranks, arguments=["--device", "cuda"])
    assert "GPU" in sentence and "give --device cpu" in sentence


@pytest.mark.parametrize("late", [0, 1])
def test_the_sentence_is_the_same_whichever_rank_fails_first(tmp_path: Path, late: int) -> None:
    script = tmp_path / "late.py"
    script.write_text(
        f"import os, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"import app\n"
        f"time.sleep(3 * (os.environ['RANK'] == '{late}'))\n"
        f"app.main()\n"
    )
    sentence = refused(tmp_path / "log", script=script, arguments=["--vae", "/nowhere"])
    assert sentence.startswith("There is no file or folder /nowhere")


def test_a_page_that_cannot_be_served(tmp_path: Path) -> None:
    """What a library raises when the page starts is told in a sentence, and is not tried again."""
    script = tmp_path / "broken.py"
    script.write_text(
        f"import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"import app\n"
        f"from wanvae_app.page import blocks\n"
        f"def launch_arguments(*_): raise RuntimeError('no page today')\n"
        f"blocks.launch_arguments = launch_arguments\n"
        f"app.main()\n"
    )
    assert refused(tmp_path / "log", script=script, num_ranks=1) == "RuntimeError: no page today"


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
