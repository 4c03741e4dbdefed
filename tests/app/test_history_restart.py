"""A visitor's run, in the app, started, ended and started again: it is there, with the same frames."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from support.app_runner import App, running_app, wait_for
from support.page_server import jpegs


def decode(client: httpx.Client, folder: Path, app: App) -> dict[str, Any]:
    """Decode a tiny latent as the page's visitor; return the run as it is listed once it is in the history."""
    path = folder / "clip.npy"
    np.save(path, np.random.default_rng(0).normal(size=(1, 16, 2, 4, 6)).astype(np.float32))
    (given,) = client.post("/gradio_api/upload", files={"files": path.open("rb")}).json()
    file = {"path": given, "meta": {"_type": "gradio.FileData"}}
    event = client.post("/gradio_api/call/run", json={"data": [file, True, 1, "Raw"]}).json()["event_id"]
    assert "complete" in client.get(f"/gradio_api/call/run/{event}").text
    wait_for(lambda: "in the history" in app.log(), 30, app)
    (run,) = client.get("/runs").json()["runs"]
    return run


def test_a_run_outlives_ranks_and_app(tmp_path: Path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with running_app(tmp_path / "log", num_ranks=1, environment=home) as app:
        client = httpx.Client(base_url=app.url, timeout=60)
        client.get("/")
        run = decode(client, tmp_path, app)
        fresh = client.get(f"/live/{run['id']}").content
        assert len(jpegs(fresh)) == 5
        boot = (app.health() or {})["boot"]
        os.kill(app.rank_pid(0), signal.SIGKILL)
        wait_for(lambda: (app.health() or {}).get("boot", boot) != boot, 60, app)
        assert client.get("/runs").json()["runs"] == [run]
        assert jpegs(client.get(f"/live/{run['id']}").content) == jpegs(fresh)

    (folder,) = (tmp_path / "cache" / "wanvae" / "history").glob("run-*")
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert client.cookies["wanvae"] not in (folder / "run.json").read_text()
    with running_app(tmp_path / "log 2", num_ranks=1, environment=home) as app:
        again = httpx.Client(base_url=app.url, timeout=60, cookies=client.cookies)
        assert again.get("/runs").json()["runs"] == [run]
        assert jpegs(again.get(f"/live/{run['id']}").content) == jpegs(fresh)
        assert again.get(run["thumbnail"]).headers["content-type"] == "image/jpeg"
        assert again.get(f"/live/{run['id']}/video.mp4").content[4:8] == b"ftyp"
        stranger = httpx.Client(base_url=app.url, timeout=60)
        stranger.get("/")
        assert stranger.get("/runs").json() == {"runs": [], "kept": True}
        for path in (f"live/{run['id']}", f"live/{run['id']}/state", run["thumbnail"]):
            assert stranger.get(f"/{path}").status_code == 404
        assert stranger.delete(f"/runs/{run['id']}").status_code == 404
        assert again.delete(f"/runs/{run['id']}").json() == {"deleted": True}
        assert again.get("/runs").json()["runs"] == [] and not folder.exists()
        assert again.get(f"/live/{run['id']}").status_code == 404
