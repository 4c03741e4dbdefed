"""Several viewers of one server, in a browser: closed tabs, other people, slow connections, many tabs."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser
from support.app_runner import wait_for
from support.browser import NUM_FRAMES, SAMPLE, Rigged, Visitor

from wanvae_app.page.frame_stream import RECORD_HEADER

ROOT = Path(__file__).resolve().parents[2]
FETCH_STATUS = "async ([path, method]) => (await fetch(path, { method })).status"


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
        assert stranger.page.evaluate(FETCH_STATUS, [f"live/{job}/{path}", method]) == 404
    for file in ("/etc/passwd", ROOT / "app.py", ROOT / "assets" / "demo_vae" / "config.json"):
        assert stranger.page.evaluate(FETCH_STATUS, [f"gradio_api/file={file}", "GET"]) == 403
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
            while header := stream.read(RECORD_HEADER.size):
                index, length, _ = RECORD_HEADER.unpack(header)
                assert index == count and stream.read(length).startswith(b"\xff\xd8")  # of a JPEG
                count += 1
            return count

    slow = socket.create_connection(("127.0.0.1", rigged.app.port))  # never reads the answer
    slow.sendall(f"GET /live/{job} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookies}\r\n\r\n".encode())
    with ThreadPoolExecutor(20) as pool:
        counts = [pool.submit(watch) for _ in range(20)]
        rigged.release(2)
        assert [count.result() for count in counts] == [NUM_FRAMES] * 20
    assert visitor.wait("s.settled && s.drawn === 17")["run"]["state"] == "finished"
    slow.close()


def test_what_waits_takes_no_stream(rigged: Rigged, visitor: Visitor) -> None:
    rigged.hold(2)
    visitor.choose(SAMPLE)
    visitor.run()
    rigged.wait_held(2)
    page = visitor.open()
    visitor.requests.clear()
    page.click(f".sample[title='{SAMPLE}']")
    page.wait_for_selector("#about:has-text('Latent,')")
    page.click("#run")
    page.wait_for_selector(".status:has-text('1 run before this one')")
    assert "1 run before this one" in page.inner_text(".empty")  # not "No run yet"
    page.wait_for_timeout(1000)
    waiting = page.evaluate("window.wanvae.state.job")
    assert not any(f"{waiting}?view" in url for url in visitor.requests)
    rigged.release(2)
    page.wait_for_selector(".status:has-text('Finished')")
    assert sum(f"{waiting}?view=decoded" in url for url in visitor.requests) == 1
    page.close()
