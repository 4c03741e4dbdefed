"""The page in a browser when ranks fail or die, or the connection breaks: it names the reason and works again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import imageio.v3 as iio
from playwright.sync_api import Browser
from support.browser import NUM_FRAMES, SAMPLE, Rigged, Visitor


def test_a_failing_rank_is_named(rigged: Rigged, visitor: Visitor) -> None:
    (rigged.rig / "raise-1-3").write_text("no more balloons")
    visitor.choose(SAMPLE)
    visitor.run()
    state = visitor.wait("s.settled")
    assert state["run"]["state"] == "failed" and state["drawn"] <= 5
    assert "Rank 1" in state["status"] and "no more balloons" in state["status"]
    visitor.run()
    assert visitor.wait("s.settled")["run"]["state"] == "finished"


def test_a_dead_rank_and_the_same_page_again(rigged: Rigged, visitor: Visitor) -> None:
    loaded: list[object] = []
    visitor.page.on("domcontentloaded", lambda page: loaded.append(page))
    rigged.hold(2)
    visitor.choose(SAMPLE)
    visitor.run()
    rigged.wait_held(2)
    visitor.wait("s.drawn === 1")
    visitor.page.wait_for_timeout(500)  # Gradio has heard the end of the click
    first = visitor.state["boot"]
    (rigged.rig / "kill-0-2").touch()
    rigged.release(2)
    visitor.page.wait_for_selector(".banner:not([hidden])")
    assert "reconnecting" in visitor.page.inner_text(".banner")
    state = visitor.wait(f"!s.lost && s.boot !== {first!r} && s.run.state === 'gone'")
    visitor.page.wait_for_selector(".banner", state="hidden")
    assert "The server was restarted" in state["status"] and "Run it again" in state["status"]
    visitor.page.wait_for_selector(".quality:has-text('preview, the exact frame is gone')")
    assert visitor.page.inner_text(".found-frame") == ""
    visitor.page.wait_for_selector("#run:not([disabled])")
    visitor.run()  # the input is still chosen
    assert visitor.wait("s.settled")["run"]["state"] == "finished"
    assert not loaded, "the page was loaded again"


def test_a_server_that_dies_at_the_click(rigged: Rigged, visitor: Visitor) -> None:
    """The click gets no answer. Gradio's own script then reloads the page once the server is back."""
    visitor.choose(SAMPLE)
    visitor.run()
    visitor.wait("s.settled")
    server = rigged.app.rank_pid(0)
    os.kill(server, signal.SIGSTOP)
    with visitor.page.expect_event("domcontentloaded"):
        with visitor.page.expect_request("**/queue/join*"):
            visitor.page.click("#run", no_wait_after=True)
        os.kill(server, signal.SIGKILL)
    visitor.page.wait_for_function("window.wanvae && health.dataset.state === 'ready'")
    visitor.choose(SAMPLE)
    visitor.run()
    assert visitor.wait("s.settled")["run"]["state"] == "finished"
    # This test asks for the state while the page is being reloaded.
    visitor.errors = [error for error in visitor.errors if "reading 'state'" not in error]


def test_what_was_finished_outlives_the_server(
    rigged: Rigged, browser: Browser, visitor: Visitor, tmp_path: Path
) -> None:
    visitor.choose(SAMPLE)
    visitor.run()
    visitor.wait("s.settled && s.drawn === 17")
    visitor.page.wait_for_function("document.querySelector('.video-file').href.startsWith('blob:')")
    first = visitor.state["boot"]
    other = Visitor(browser, rigged.url)
    (rigged.rig / "kill-1-1").touch()
    other.choose(SAMPLE)
    other.run()
    visitor.wait(f"!s.lost && s.boot !== {first!r}")
    assert len(iio.imread(visitor.download(".video-file", tmp_path), plugin="FFMPEG")) == NUM_FRAMES
    visitor.page.focus(".stage")
    visitor.page.keyboard.press("Home")
    visitor.wait("s.shown === 0")
    other.wait("!s.active")
    assert other.state["run"]["state"] in ("failed", "gone")
    # A page that is reloaded after the restart, and was following a run that died with the server.
    other.page.evaluate(f"Object.assign(sessionStorage, {{'wanvae-job': 'gone', 'wanvae-boot': {first!r}}})")
    other.page.reload()
    other.page.wait_for_function(
        "window.wanvae && wanvae.state.status.includes('and this run with it. Choose')"
    )
    other.close()


def test_stop_reaches_the_server_when_it_answers_again(rigged: Rigged, visitor: Visitor) -> None:
    rigged.hold(2)
    visitor.choose(SAMPLE)
    visitor.run()
    rigged.wait_held(2)
    visitor.context.set_offline(True)
    visitor.page.wait_for_selector("text=Connection lost")
    visitor.page.click("#stop")
    visitor.context.set_offline(False)
    visitor.wait("s.run.stopping")
    rigged.release(2)
    assert visitor.wait("s.settled")["run"]["state"] == "stopped"
