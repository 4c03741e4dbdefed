"""What the app leaves in the temporary folder, however it ends: nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from support.app_runner import ROOT, App, surroundings, wait_for

SAMPLE = ROOT / "assets" / "samples" / "Bicycle at sunset.safetensors"
NUM_ABORTED = 100  # uploads
HEAD = (
    "POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n"
    'Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; name="files"; '
    'filename="clip.pt"\r\nContent-Type: application/octet-stream\r\n\r\n'
)


def begin_upload(app: App) -> socket.socket:
    """Send the beginning of an upload."""
    connection = socket.create_connection(("127.0.0.1", app.port), 10)
    connection.sendall(HEAD.format(host=f"127.0.0.1:{app.port}").encode() + b"x" * 1000)
    return connection


def files(home: Path) -> set[Path]:
    """All files in the temporary folder, but for the lock."""
    return {path for path in home.rglob("*") if path.is_file() and path.name != "lock"}


def test_nothing_is_left_by_aborted_uploads_dead_ranks_and_a_closed_terminal(tmp_path: Path) -> None:
    home = tmp_path / "tmp"
    home.mkdir()
    app = App(tmp_path / "log", num_ranks=1, environment={"TMPDIR": str(home)})
    try:
        app.wait_ready()
        before = files(home)
        uploads = [begin_upload(app) for _ in range(NUM_ABORTED)]
        wait_for(lambda: len(files(home) - before) == NUM_ABORTED, 10, app)
        for upload in uploads:
            upload.close()
        given = httpx.post(f"{app.url}/gradio_api/upload", files={"files": SAMPLE.open("rb")}).json()
        wait_for(lambda: files(home) - before == {Path(given[0])}, 10, app)
        open_upload = begin_upload(app)  # still going on at the end

        boot = (app.health() or {})["boot"]
        os.kill(app.rank_pid(0), signal.SIGKILL)
        wait_for(lambda: (app.health() or {}).get("boot", boot) != boot, 60, app)
        assert (app.health() or {})["last_words"] == "rank 0 died"
        assert Path(given[0]).exists(), "the page may run its upload again"
        wait_for(lambda: files(home) - before <= {Path(given[0])}, 10, app)
        open_upload.close()

        file = {"path": given[0], "meta": {"_type": "gradio.FileData"}}
        data = {"data": [file, True, 1, "Auto"]}
        assert httpx.post(f"{app.url}/gradio_api/call/run", json=data).status_code == 200
        wait_for(lambda: (app.health() or {})["state"] == "busy", 20, app)
        app.stop(signal.SIGHUP, timeout=10)
        assert list(home.iterdir()) == []
    finally:
        app.stop()


def heed_hangups() -> None:
    """The tests themselves may run under nohup, which their processes would inherit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("nohup", [False, True])
def test_the_launchers_torchrun_deletes_its_folder(tmp_path: Path, nohup: bool) -> None:
    """A closed terminal ends it, but not under nohup."""
    home, begun, done = tmp_path / "tmp", tmp_path / "begun", tmp_path / "done"
    home.mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, time\nopen({str(begun)!r}, 'w')\nwhile not os.path.exists({str(done)!r}): time.sleep(0.1)\n"
    )
    command = [sys.executable, "-m", "wanvae_app.cli.torchrun", "--standalone", "--nproc-per-node", "1"]
    command = ["nohup"] * nohup + [*command, str(script)]
    environment = surroundings(TMPDIR=str(home))
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, preexec_fn=heed_hangups
    )
    try:
        wait_for(begun.exists, 60)
        process.send_signal(signal.SIGHUP)
        if nohup:
            time.sleep(0.5)
            assert process.poll() is None
            done.touch()
        _, errors = process.communicate(timeout=30)
        assert process.returncode == (0 if nohup else 128 + signal.SIGHUP), errors
        assert b"Traceback" not in errors
        assert list(home.glob("torchelastic_*")) == []
    finally:
        process.kill()
