"""The page in a browser: closed tabs, strangers, many viewers, failing and dying ranks."""

from __future__ import annotations

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import imageio.v3 as iio
import numpy as np
import pytest
from playwright.sync_api import Browser
from support.app_runner import wait_for
from support.browser import NUM_FRAMES, SAMPLE, Rigged, Visitor

from wanvae_app.page.routes import RECORD

ROOT = Path(__file__).resolve().parents[2]
ANSWER = """async ([path, method]) => (await fetch(path, { method })).status"""


def test_a_closed_tab_frees_the_ranks(rigged: Rigged, browser: Browser) -> None:
    visitor = Visitor(browser, rigged.url)
    rigged.hold(3)
    visitor.choose(SAMPLE)
    job = visitor.run()
    rigged.wait_held(3)
    visitor.close()
    wait_for(lambda: f"job {job[:8]}: nobody is watching" in rigged.app.log(), 30, rigged.app)
    rigged.release(3)
    rigged.wait_idle()
    assert re.search(f"job {job[:8]}: .* stopped", rigged.app.log())


def test_strangers_wait_and_keep_out(rigged: Rigged, browser: Browser, visitor: Visitor) -> None:
    rigged.hold(2)
    visitor.choose(SAMPLE)
    job = visitor.run()
    rigged.wait_held(2)
    stranger = Visitor(browser, rigged.url)
    for path, method in (("state", "GET"), ("stop", "POST"), ("video.mp4", "GET"), ("../live/" + job, "GET")):
        assert stranger.page.evaluate(ANSWER, [f"live/{job}/{path}", method]) == 404
    for file in ("/etc/passwd", ROOT / "app.py", ROOT / "assets" / "demo_vae" / "config.json"):
        assert stranger.page.evaluate(ANSWER, [f"gradio_api/file={file}", "GET"]) == 403
    with pytest.raises(OSError, match="404"):
        urlopen(f"{rigged.url}/live/{job}/state")
    stranger.choose(SAMPLE)
    stranger.run()
    stranger.wait("s.run.state === 'queued' && s.run.place === 1")
    assert "1 run before this one" in stranger.state["status"]
    stranger.page.click("#stop")
    assert stranger.wait("s.settled")["run"]["state"] == "stopped"
    rigged.release(2)
    assert visitor.wait("s.settled")["run"]["state"] == "finished"
    stranger.close()


def test_many_watch_and_one_is_slow(rigged: Rigged, visitor: Visitor) -> None:
    rigged.hold(2)
    visitor.choose(SAMPLE)
    job = visitor.run()
    rigged.wait_held(2)
    cookies = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in visitor.context.cookies())

    def watch() -> int:
        request = Request(f"{rigged.url}/live/{job}?start=0", headers={"Cookie": cookies})
        with urlopen(request, timeout=60) as stream:
            count = 0
            while header := stream.read(RECORD.size):
                index, length, _ = RECORD.unpack(header)
                assert index == count and stream.read(length).startswith(b"\xff\xd8")  # of a JPEG
                count += 1
            return count

    slow = socket.create_connection(("127.0.0.1", rigged.app.port))
    slow.sendall(
        f"GET /live/{job} HTTP/1.1\r\nHost: x\r\nCookie: {cookies}\r\n\r\n".encode()
    )  # and never reads
    with ThreadPoolExecutor(20) as pool:
        counts = [pool.submit(watch) for _ in range(20)]
        rigged.release(2)
        assert [count.result() for count in counts] == [NUM_FRAMES] * 20
    assert visitor.wait("s.settled && s.drawn === 17")["run"]["state"] == "finished"
    slow.close()


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
    visitor.page.wait_for_selector("#run:not([disabled])")
    visitor.run()  # what was chosen is chosen still
    assert visitor.wait("s.settled")["run"]["state"] == "finished"
    assert not loaded, "the page was loaded again"


def test_a_server_that_dies_at_the_click(rigged: Rigged, visitor: Visitor) -> None:
    """A click that was not answered: Gradio's own script then loads the page again when the server is back."""
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
    visitor.errors = [
        error for error in visitor.errors if "reading 'state'" not in error
    ]  # of our own questions


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
    # A page that was loaded again only now, and was following a run that died with the server.
    other.page.evaluate(f"Object.assign(sessionStorage, {{'wanvae-job': 'gone', 'wanvae-boot': {first!r}}})")
    other.page.reload()
    other.page.wait_for_function(
        "window.wanvae && wanvae.state.status.includes('and this run with it. Choose')"
    )
    other.close()


def test_a_sample_is_not_chosen_while_a_file_is_uploaded(
    rigged: Rigged, visitor: Visitor, tmp_path: Path
) -> None:
    path = tmp_path / "large.npy"
    np.save(path, np.zeros((1, 16, 5, 64, 64), np.float32))  # 1.3 MB
    network = visitor.context.new_cdp_session(visitor.page)
    pace = {"offline": False, "latency": 0, "downloadThroughput": -1}
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", {**pace, "uploadThroughput": 200_000})
    visitor.page.set_input_files("#file input[type=file]", path)
    visitor.page.wait_for_selector("#file .uploading")
    visitor.page.click(".sample >> nth=0")
    network.send("Network.emulateNetworkConditions", {**pace, "uploadThroughput": -1})
    visitor.page.wait_for_selector("#about:has-text('5 x 64 x 64')")
    assert visitor.page.locator("#file tr.file").count() == 1 and visitor.page.locator(".chosen").count() == 0


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


def test_what_waits_takes_no_stream(rigged: Rigged, visitor: Visitor) -> None:
    rigged.hold(2)
    visitor.choose(SAMPLE)
    visitor.run()
    rigged.wait_held(2)
    page = visitor.open()
    visitor.requests.clear()
    page.click(f".sample[title='{SAMPLE}']")
    page.wait_for_selector("#about:has-text('Latent')")
    page.click("#run")
    page.wait_for_selector(".status:has-text('1 run before this one')")
    page.wait_for_timeout(1000)
    waiting = page.evaluate("window.wanvae.state.job")
    assert not any(f"{waiting}?view" in url for url in visitor.requests)
    rigged.release(2)
    page.wait_for_selector(".status:has-text('Finished')")
    assert sum(f"{waiting}?view=decoded" in url for url in visitor.requests) == 1
    page.close()


def test_a_script_that_is_not_there_is_told(rigged: Rigged, browser: Browser) -> None:
    """The player, and the gallery, say so in their own places; the rest of the page is there."""
    for script, place in (("player.js", "#player .banner"), ("gallery.js", "#samples p")):
        context = browser.new_context()
        page = context.new_page()
        page.route(f"**/page/{script}", lambda route: route.abort())
        page.goto(rigged.url)
        page.wait_for_selector(f"{place}:has-text('could not be started: reload the page')")
        assert page.is_enabled("#run")
        context.close()


DENY = """for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
}"""


def test_a_browser_that_denies_storage(rigged: Rigged, browser: Browser) -> None:
    """As in another site's IFrame: everything works, only a reload forgets."""
    context = browser.new_context()
    context.add_init_script(DENY)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(rigged.url)
    page.wait_for_function("window.wanvae && health.dataset.state === 'ready'")
    page.click(f".sample[title='{SAMPLE}']")
    page.wait_for_selector("#about:has-text('Latent')")
    page.click("#run")
    page.wait_for_selector(".status:has-text('Finished')")
    page.wait_for_function("window.wanvae.state.drawn === 17")
    dark = "document.body.classList.contains('dark')"
    before = page.evaluate(dark)
    page.click("#theme")
    page.click(".loop")
    assert page.evaluate(dark) != before and page.get_attribute(".loop", "aria-pressed") == "true"
    assert not [error for error in errors if "denied" in error], errors
    context.close()
