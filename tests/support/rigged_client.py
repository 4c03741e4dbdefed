"""Asks of an app that support/rigged_app.py has started what a page asks, and orders its faults."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import httpx
from support.app_runner import ROOT, App, wait_for

RIGGED_APP = ROOT / "tests" / "support" / "rigged_app.py"


class Client:
    """Asks of the app what a page asks, and orders faults."""

    def __init__(self, app: App, rig: Path) -> None:
        self.app = app
        self.rig = rig

    def order(self, fault: str, text: str = "") -> Path:
        """Order a fault, and return its file; see rigged_app.py."""
        path = self.rig / fault
        path.write_text(text)
        return path

    def ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        """Return the JSON that the app answers."""
        request = urllib.request.Request(f"{self.app.url}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def start(self, **options: int) -> str:
        """Start a run of noise, and return its id; for the options see rigged_app.py."""
        query = "&".join(f"{name}={int(value)}" for name, value in options.items())
        return self.ask(f"rig/run?{query}", "POST")["id"]

    def state(self, run: str) -> dict[str, Any]:
        return self.ask(f"live/{run}/state")

    def wait_until_ended(self, run: str, timeout: float = 30) -> dict[str, Any]:
        """Return the run's state when it has ended."""
        ended = ("finished", "failed", "stopped")
        wait_for(lambda: self.state(run)["state"] in ended, timeout, self.app)
        return self.state(run)

    def seconds_until_back(self, boot: str, timeout: float = 60) -> float:
        """Wait until another server than `boot` answers and has decoded a run; return the seconds."""
        start = time.monotonic()
        wait_for(lambda: (self.app.health() or {}).get("boot", boot) != boot, timeout, self.app)
        self.decode()
        return time.monotonic() - start

    def upload(self, file: Path) -> str:
        """Upload a file as the page does; return its path on the server."""
        with file.open("rb") as opened:
            given = httpx.post(f"{self.app.url}/gradio_api/upload", files={"files": (file.name, opened)})
        return given.json()[0]

    def run_upload(self, path: str) -> str:
        """Run an uploaded file through the API's endpoint; return what the call says to its end."""
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, True, 1, "Auto"]
        call = f"{self.app.url}/gradio_api/call/run"
        event = httpx.post(call, json={"data": data}, timeout=20).json()["event_id"]
        return httpx.get(f"{call}/{event}", timeout=60).text

    def decode(self) -> str:
        """Start a run, check that it finishes, and return its id."""
        run = self.start(latents=3)
        state = self.wait_until_ended(run)
        assert state["state"] == "finished" and state["frames"] == 9, state
        return run
