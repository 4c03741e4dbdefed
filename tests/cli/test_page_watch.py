"""A page that hangs is noticed from outside, whatever hangs; one that is busy, or refuses, is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.app_runner import surroundings, wait_for
from support.browser import Rigged

from wanvae_app.cli.ports import free_port

PERIOD, SILENCE = 0.1, 0.6  # seconds
# A page with its watcher. It answers 503, and hangs on request: all of it, or only the thread that answers.
PAGE = """
import os, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
folder, port = Path(sys.argv[1]), int(sys.argv[2])
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        (folder / "asked").touch()
        while (folder / "hang").exists():
            time.sleep(0.01)
        self.send_error(503)
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
code = "import sys; from wanvae_app.cli import page_watch as w; "
code += f"w.watch('0.0.0.0', {port}, {os.getpid()}, PERIOD, SILENCE)"
subprocess.Popen([sys.executable, "-c", code.replace("PERIOD", sys.argv[3]).replace("SILENCE", sys.argv[4])])
time.sleep(60)
"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A page whose watcher has asked it once."""
    script = tmp_path / "page.py"
    script.write_text(PAGE)
    arguments = [tmp_path, str(free_port()), str(PERIOD), str(SILENCE)]
    with subprocess.Popen(
        [sys.executable, script, *arguments], env=surroundings(), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for((tmp_path / "asked").exists, 20)
            yield process
        finally:
            process.kill()


def test_a_stopped_page_is_killed(page: subprocess.Popen[str]) -> None:
    os.kill(page.pid, signal.SIGSTOP)
    assert page.wait(20) == -signal.SIGKILL
    assert page.stderr is not None
    assert "Rank 0 gave no answer for 1 s; the ranks are being restarted." in page.stderr.read()


def test_a_page_that_does_not_answer_is_killed(page: subprocess.Popen[str], tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    assert page.wait(20) == -signal.SIGKILL


def test_a_page_that_refuses_or_pauses_is_left_alone(page: subprocess.Popen[str], tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    time.sleep(SILENCE / 2)
    (tmp_path / "hang").unlink()
    (tmp_path / "asked").unlink()
    wait_for((tmp_path / "asked").exists, 20)
    time.sleep(2 * SILENCE)
    assert page.poll() is None


def test_rank_0_has_a_watcher(rigged: Rigged) -> None:
    """Ctrl-C does not end it: rank 0 decides. test_rank_failures.py holds that it ends with the app."""

    def watchers() -> list[int]:
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in rigged.app.pids()}
        return [pid for pid, command in commands.items() if b"page_watch" in command]

    wait_for(watchers, 20, rigged.app)
    (watcher,) = watchers()
    parent = int(Path(f"/proc/{watcher}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent == rigged.app.rank_pid(0)
    os.kill(watcher, signal.SIGINT)
    time.sleep(0.2)
    assert watchers() == [watcher]
