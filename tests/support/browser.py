"""A Chromium for tests, a person who uses the page in it, and the app with a rig."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from support.app_runner import App, wait_for

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SAMPLE = "Rolling marbles"  # 5 latent frames
NUM_FRAMES = 17  # of the sample
PATIENCE = 60_000  # milliseconds; only a failing test waits so long


def chromium() -> str | None:
    """The program to drive: what launch.sh found (BROWSER_PATH), else one on PATH, else None: Playwright's own."""
    named = os.environ.get("BROWSER_PATH")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser without a window. A test that needs it fails where there is none: skipping would prove nothing."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """One person: a browser context of its own, with the app's page open."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.url = url
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
        self.context.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.open()

    def open(self) -> Page:
        """Another tab, ready to be used."""
        page = self.context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.url)
        page.wait_for_function("window.wanvae && ['ready', 'busy'].includes(health.dataset.state)")
        return page

    def choose(self, sample: str) -> None:
        """Click a sample, and wait until the page has said what it is."""
        self.page.click(f".sample[title='{sample}']")
        self.page.wait_for_selector("#about p:not(.hint)")

    def upload(self, path: Path) -> None:
        """Give a file of one's own."""
        if self.page.locator("#file button[aria-label='Clear']").count():
            self.page.click("#file button[aria-label='Clear']")
            self.page.wait_for_selector("#about .hint")
        self.page.set_input_files("#file input[type=file]", path)
        self.page.wait_for_selector("#about p:not(.hint)")

    def run(self) -> str:
        """Press Run; returns the new run's id as soon as the page follows it."""
        before = self.state["job"]
        self.page.click("#run")
        self.wait(f"s.job && s.job !== {before!r} && s.run" if before else "s.job && s.run")
        return self.state["job"]

    def wait(self, condition: str) -> dict[str, Any]:
        """Until a JavaScript condition on the page's state `s` holds; returns the state."""
        self.page.wait_for_function(f"(() => {{ const s = window.wanvae.state; return {condition}; }})()")
        return self.state

    @property
    def state(self) -> dict[str, Any]:
        """What main.js exposes."""
        return self.page.evaluate("window.wanvae.state")

    def download(self, peer_memory: str, folder: Path) -> Path:
        """Click a link and save what comes, under the name that it comes with."""
        with self.page.expect_download() as event:
            self.page.click(peer_memory)
        path = folder / event.value.suggested_filename
        event.value.save_as(path)
        return path

    def contrast(self) -> float:
        """The standard deviation of the pixels on the canvas: 0 where it is blank."""
        return self.page.evaluate(
            """() => {
                const canvas = document.querySelector(".stage canvas");
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                const grey = Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 1]);
                const mean = grey.reduce((a, b) => a + b) / grey.length;
                return Math.sqrt(grey.reduce((a, b) => a + (b - mean) ** 2, 0) / grey.length);
            }"""
        )

    def close(self) -> None:
        """Go away; everything the page did wrong comes to light."""
        self.context.close()
        assert not self.errors, self.errors


class Rigged:
    """The app with a rig: see rigged_app.py."""

    def __init__(self, app: App, rig: Path) -> None:
        self.app = app
        self.rig = rig
        self.url = app.url

    def hold(self, chunk: int) -> None:
        """Let rank 0 wait before this chunk, counted from 1."""
        (self.rig / f"hold-0-{chunk}").touch()

    def wait_held(self, chunk: int) -> None:
        """Until it waits there."""
        wait_for((self.rig / f"held-0-{chunk}").exists, 60, self.app)

    def release(self, chunk: int) -> None:
        """Let it go on."""
        (self.rig / f"hold-0-{chunk}").unlink(missing_ok=True)

    def wait_idle(self) -> None:
        """Until no run is on the ranks."""
        wait_for(lambda: (self.app.health() or {}).get("state") == "ready", 60, self.app)

    def reset(self) -> None:
        """Withdraw all orders and let the present run end."""
        for order in self.rig.iterdir():
            if not order.name.startswith("held"):
                order.unlink(missing_ok=True)
        self.wait_idle()
