"""For tests of the page: a headless Chromium, a visitor who uses the page in it, and the app with built-in faults."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from support.app_runner import App, wait_for

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
STRANGER = "stranger.example"  # a name that is not this server's, though it leads to this machine
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {STRANGER} 127.0.0.1",
)
SAMPLE = "Rolling marbles"  # 5 latent frames
NUM_FRAMES = 17  # of the sample
DENY_STORAGE = """for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
}"""
TIMEOUT = 60_000  # milliseconds; only a failing test waits so long


def chromium() -> str | None:
    """Path of the browser: BROWSER_PATH, which launch.sh sets, or one on PATH. None means Playwright's own."""
    named = os.environ.get("BROWSER_PATH")
    return named or next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Start a headless browser. Where there is none the test fails; a skipped test would prove nothing."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """One person: a browser context with its own cookies and storage, and the app's page open in it.

    `requests` are the addresses that its pages asked for, `errors` the exceptions of their scripts and what the
    page's content security policy refused.
    """

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.url = url
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
        self.context.set_default_timeout(TIMEOUT)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.open()

    def open(self) -> Page:
        """Open another tab, and wait until the page can be used."""
        page = self.context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)
        page.goto(self.url)
        page.wait_for_function("window.wanvae && ['ready', 'busy'].includes(health.dataset.state)")
        return page

    def choose(self, sample: str) -> None:
        """Click a sample, and wait until the page describes it."""
        self.page.click(f".sample[title='{sample}']")
        self.page.wait_for_selector("#about p:not(.hint)")

    def upload(self, path: Path) -> None:
        """Upload a file, and wait until the page describes it."""
        if self.page.locator("#file button[aria-label='Clear']").count():
            self.page.click("#file button[aria-label='Clear']")
            self.page.wait_for_selector("#about .hint")
        self.page.set_input_files("#file input[type=file]", path)
        self.page.wait_for_selector("#about p:not(.hint)")

    def run(self) -> str:
        """Press Run, and wait until the page follows the new run; returns the run's id."""
        before = self.state["job"]
        self.page.click("#run")
        self.wait(f"s.job && s.job !== {before!r} && s.run" if before else "s.job && s.run")
        return self.state["job"]

    def wait(self, condition: str) -> dict[str, Any]:
        """Wait until a JavaScript condition on the page's state `s` holds; returns the state."""
        self.page.wait_for_function(f"(() => {{ const s = window.wanvae.state; return {condition}; }})()")
        return self.state

    @property
    def state(self) -> dict[str, Any]:
        """The page's state, which its script exposes as window.wanvae.state."""
        return self.page.evaluate("window.wanvae.state")

    def download(self, selector: str, folder: Path) -> Path:
        """Click a link, and save its file in `folder` under the name that the server gives it."""
        with self.page.expect_download() as event:
            self.page.click(selector)
        path = folder / event.value.suggested_filename
        event.value.save_as(path)
        return path

    def contrast(self) -> float:
        """Standard deviation of the canvas's green channel, 0 to 127.5; 0 means a blank canvas."""
        return self.page.evaluate(
            """() => {
                const canvas = document.querySelector(".stage canvas");
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                const grey = Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 1]);
                const mean = grey.reduce((a, b) => a + b) / grey.length;
                return Math.sqrt(grey.reduce((a, b) => a + (b - mean) ** 2, 0) / grey.length);
            }"""
        )

    def _hear(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            self.errors.append(message.text)

    def close(self) -> None:
        """Close all tabs. Raises AssertionError if there are `errors`."""
        self.context.close()
        assert not self.errors, self.errors


class Rigged:
    """The app with faults built in, which files in the folder `rig` order; see rigged_app.py."""

    def __init__(self, app: App, rig: Path) -> None:
        self.app = app
        self.rig = rig
        self.url = app.url

    def hold(self, chunk: int) -> None:
        """Hold rank 0 before this chunk, counted from 1."""
        (self.rig / f"hold-0-{chunk}").touch()

    def wait_held(self, chunk: int) -> None:
        """Wait until rank 0 is held before this chunk."""
        wait_for((self.rig / f"held-0-{chunk}").exists, 60, self.app)

    def release(self, chunk: int) -> None:
        """Let rank 0 go on."""
        (self.rig / f"hold-0-{chunk}").unlink(missing_ok=True)

    def wait_idle(self) -> None:
        """Wait until no run is queued or on the ranks."""
        wait_for(lambda: (self.app.health() or {}).get("state") == "ready", 60, self.app)

    def reset(self) -> None:
        """Withdraw all orders, and wait until the present run has ended."""
        for order in self.rig.iterdir():
            if not order.name.startswith("held"):
                order.unlink(missing_ok=True)
        self.wait_idle()
