"""Firefox for a test: started headless, and driven by WebDriver BiDi, which it speaks itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from support.websocket import WebSocket

PROGRAMS = ("firefox-esr", "firefox")
START_SECONDS = 60.0
TIMEOUT = 60.0  # seconds; only a failing test waits so long
LISTENING = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.server": "",
}


def firefox() -> str | None:
    """Path of Firefox: FIREFOX_PATH, or one on PATH; None if there is none."""
    named = os.environ.get("FIREFOX_PATH")
    return named or next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Tab:
    """A tab of Firefox."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._ids = count(1)
        self._ask("session.new", {"capabilities": {}})
        self._context = self._ask("browsingContext.create", {"type": "tab"})["context"]

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self._ask("browsingContext.navigate", {"context": self._context, "url": url, "wait": "complete"})

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression is, as far as JSON can say it. AssertionError if it throws."""
        target = {"context": self._context}
        text = f"Promise.resolve({expression}).then(value => JSON.stringify(value ?? null))"
        found = self._ask("script.evaluate", {"expression": text, "target": target, "awaitPromise": True})
        assert found["type"] == "success", found["exceptionDetails"]["text"]
        return json.loads(found["result"]["value"])

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + TIMEOUT
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"not within {TIMEOUT:g} s: {condition}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keyboard", "actions": keys}]
        self._ask("input.performActions", {"context": self._context, "actions": actions})

    def _ask(self, method: str, parameters: dict[str, Any]) -> Any:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.receive())
            if answer.get("id") == number:  # else it is an event
                assert answer["type"] == "success", answer
                return answer["result"]


@contextmanager
def running_firefox(program: str, folder: Path) -> Iterator[Tab]:
    """Start Firefox with a new profile in `folder`, which is empty; returns a tab. Ends Firefox at the end."""
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
    (folder / "user.js").write_text("\n".join(lines))
    command = [program, "--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0"]
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        end = time.monotonic() + START_SECONDS
        while not (found := LISTENING.search(log.read_text(errors="replace"))):
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.05)
        socket = WebSocket(f"{found[1]}/session", TIMEOUT)
        with contextlib.closing(socket):
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(20)
