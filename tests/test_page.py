"""The page in a browser, against the app on two ranks: what a user does, and what goes wrong meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import imageio.v3 as iio
import numpy as np
import pytest
from app_runner import App, running_app, wait_for
from browser import Visitor, running_browser
from PIL import Image
from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = "Rolling marbles"  # 5 latent frames, 17 frames
NUM_FRAMES = 17
ANSWER = """async ([path, method]) => (await fetch(path, { method })).status"""


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rigged]:
    rig = tmp_path_factory.mktemp("rig")
    with running_app(
        rig.with_suffix(".log"), script=ROOT / "tests" / "rigged_app.py", environment={"RIG": str(rig)}
    ) as app:
        yield Rigged(app, rig)


@pytest.fixture
def app(started: Rigged) -> Iterator[Rigged]:
    """The one app of this module, with nothing held and nothing running before and after each test."""
    yield started
    for order in started.rig.iterdir():
        if not order.name.startswith("held"):
            order.unlink(missing_ok=True)
    started.wait_idle()


@pytest.fixture
def visitor(app: Rigged, browser: Browser) -> Iterator[Visitor]:
    visitor = Visitor(browser, app.url)
    yield visitor
    visitor.close()


def download(visitor: Visitor, link: str, folder: Path) -> Path:
    """Click a link and save what comes, under the name that it comes with."""
    with visitor.page.expect_download() as event:
        visitor.page.click(link)
    path = folder / event.value.suggested_filename
    event.value.save_as(path)
    return path


def test_first_sight(app: Rigged, browser: Browser, visitor: Visitor) -> None:
    page = visitor.page
    assert page.locator(".sample").count() == 5
    page.wait_for_selector("#stop[disabled]")
    assert page.is_enabled("#run")
    assert page.is_checked("#parallel input") and "Parallel (2 ranks)" in page.inner_text("#parallel")
    assert "2 ranks on CPU" in page.inner_text("#header")
    assert {url.split("/")[2] for url in visitor.requests if url.startswith("http")} == {app.url.split("/")[2]}
    page.click("#run")  # with nothing chosen
    page.wait_for_function("document.querySelector('.status').dataset.tone === 'bad'")
    assert "Choose a sample" in visitor.state["status"]
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_frames_are_seen_while_the_decode_is_held(app: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    app.hold(4)
    visitor.choose(SAMPLE)
    job = visitor.run()
    app.wait_held(4)
    state = visitor.wait("s.drawn >= 9")
    assert state["drawn"] == state["received"] == 9 and state["shown"] == 8
    assert visitor.contrast() > 10
    server = visitor.page.evaluate(f"fetch('live/{job}/state').then(answer => answer.json())")
    assert (server["state"], server["frames"], server["num_frames"]) == ("running", 9, NUM_FRAMES)
    assert app.app.health()["state"] == "busy"
    app.release(4)
    state = visitor.wait("s.settled && s.drawn === 17 && !s.playing")
    assert state["run"]["state"] == "finished" and state["complete"]
    # It replays and can be scrubbed without the server.
    visitor.page.focus(".stage")
    for key, frame in (("Home", 0), ("ArrowRight", 1), ("End", 16), ("Shift+ArrowLeft", 6), (" ", 16)):
        visitor.page.keyboard.press(key)
        visitor.wait(f"s.shown === {frame}")
    visitor.page.locator(".scrub").fill("3")
    visitor.wait("s.shown === 3")
    assert visitor.page.inner_text(".frame") == "4 / 17"
    video = download(visitor, ".video-file", tmp_path)
    assert video.name == "Rolling marbles-decoded.mp4"
    assert iio.imread(video, plugin="FFMPEG").shape == (NUM_FRAMES, 256, 256, 3)


def test_parallel_on_and_off_are_compared(app: Rigged, visitor: Visitor) -> None:
    page = visitor.page
    visitor.choose(SAMPLE)
    visitor.run()
    visitor.wait("s.settled")
    assert page.is_hidden(".comparison")
    page.click("#parallel input")
    visitor.run()
    state = visitor.wait("s.settled && s.run.comparison")
    rows = page.locator(".runs tbody tr").all_inner_texts()
    assert [row.split("\t")[1:3] for row in rows] == [["on", "2"], ["off", "1"]]
    assert page.locator(".timeline .share").all_text_contents()[1] == "idle"  # rank 1
    text = page.inner_text(".comparison")
    assert re.match(r"Parallel \(run 1\) was \d+\.\d\d times as fast as rank 0 alone \(run 2\)\. ", text)
    # One step of 255 where the two kinds of convolution round differently; none on the CPUs seen so far.
    assert state["run"]["comparison"]["max_abs"] <= 1
    assert ("identical" in text) == (state["run"]["comparison"]["max_abs"] == 0)


def test_stop_and_run_again(app: Rigged, visitor: Visitor) -> None:
    app.hold(3)
    visitor.choose(SAMPLE)
    visitor.run()
    app.wait_held(3)
    visitor.wait("s.drawn === 5")
    visitor.page.click("#stop")
    visitor.page.wait_for_function("document.querySelector('.status').textContent.startsWith('Stopping')")
    app.release(3)
    state = visitor.wait("s.settled")
    assert state["run"]["state"] == "stopped" and 5 <= state["received"] < NUM_FRAMES
    visitor.page.focus(".stage")
    visitor.page.keyboard.press("Home")
    visitor.wait("s.shown === 0")
    visitor.run()
    assert visitor.wait("s.settled")["run"]["state"] == "finished"


def test_a_wrong_file_costs_nothing(app: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    visitor.choose(SAMPLE)
    job = visitor.run()
    visitor.wait("s.settled")
    wrong = tmp_path / "letter.safetensors"
    wrong.write_text("Dear Sir or Madam")
    visitor.upload(wrong)
    visitor.page.wait_for_selector("#about .bad")
    visitor.page.click("#run")
    visitor.page.wait_for_function("document.querySelector('.status').dataset.tone === 'bad'")
    state = visitor.state
    assert state["status"].startswith("Not run") and state["status"].count(". ") <= 1
    assert visitor.page.locator(".toast-body").count() == 1
    assert state["job"] == job and state["received"] == NUM_FRAMES  # what was there is there still
    assert visitor.page.locator(".runs tbody tr").count() == 1
    visitor.choose(SAMPLE)
    visitor.page.wait_for_selector("#about p:not(.bad)")
    visitor.run()
    assert visitor.wait("s.settled")["run"]["state"] == "finished"


def test_a_video_there_and_back(app: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    sample = iio.imread(ROOT / "assets" / "samples" / "Balloons over the hills.mp4", plugin="FFMPEG")
    small = [np.asarray(Image.fromarray(frame).resize((200, 124))) for frame in sample[:19]]
    iio.imwrite(tmp_path / "mine.mp4", np.stack(small), fps=12, plugin="FFMPEG", macro_block_size=1)
    visitor.upload(tmp_path / "mine.mp4")
    visitor.run()
    state = visitor.wait("s.settled && s.drawn === 17")
    run = state["run"]
    assert (run["state"], run["kind"], run["fps"]) == ("finished", "roundtrip", 12)
    assert (run["width"], run["height"], run["num_frames"]) == (200, 120, 17)
    assert "120" in visitor.page.inner_text(".note") and "17" in visitor.page.inner_text(".note")
    assert run["psnr"] > 20 and f"{run['psnr']:.2f} dB" in visitor.page.inner_text("[data-stat=psnr]")
    assert visitor.page.inner_text(".tag.left") == "Source"
    canvas = "[...Object.values(({width, height} = document.querySelector('canvas'), {width, height}))]"
    width, height = visitor.page.evaluate(f"(() => {{ let width, height; return {canvas}; }})()")
    assert width >= 400 or height >= 240  # both clips are on it
    for mode in ("wipe", "difference", "decoded"):
        visitor.page.click(f"[data-mode={mode}]")
        visitor.page.wait_for_function("document.querySelector('canvas').width === 200")
        assert visitor.state["mode"] == mode
    # The latent that was downloaded is a latent to upload.
    visitor.upload(download(visitor, ".latent-file", tmp_path))
    assert "17 frames of 200" in visitor.page.inner_text("#about")


def test_a_reload_finds_the_run_again(app: Rigged, visitor: Visitor) -> None:
    app.hold(3)
    visitor.choose(SAMPLE)
    job = visitor.run()
    app.wait_held(3)
    visitor.page.reload()
    visitor.page.wait_for_function("window.wanvae")
    state = visitor.wait("s.run && s.drawn === 5")
    assert state["job"] == job and state["active"]
    app.release(3)
    assert visitor.wait("s.settled && s.drawn === 17")["run"]["state"] == "finished"


def test_a_closed_tab_frees_the_ranks(app: Rigged, browser: Browser) -> None:
    visitor = Visitor(browser, app.url)
    app.hold(3)
    visitor.choose(SAMPLE)
    job = visitor.run()
    app.wait_held(3)
    visitor.close()
    wait_for(lambda: f"job {job[:8]}: nobody is watching" in app.app.log(), 30, app.app)
    app.release(3)
    app.wait_idle()
    assert re.search(f"job {job[:8]}: .* stopped", app.app.log())


def test_strangers_wait_and_keep_out(app: Rigged, browser: Browser, visitor: Visitor) -> None:
    app.hold(2)
    visitor.choose(SAMPLE)
    job = visitor.run()
    app.wait_held(2)
    stranger = Visitor(browser, app.url)
    for path, method in (("state", "GET"), ("stop", "POST"), ("video.mp4", "GET"), ("../live/" + job, "GET")):
        assert stranger.page.evaluate(ANSWER, [f"live/{job}/{path}", method]) == 404
    with pytest.raises(OSError, match="404"):
        urlopen(f"{app.url}/live/{job}/state")
    stranger.choose(SAMPLE)
    stranger.run()
    stranger.wait("s.run.state === 'queued' && s.run.place === 1")
    assert "1 run before this one" in stranger.state["status"]
    stranger.page.click("#stop")
    assert stranger.wait("s.settled")["run"]["state"] == "stopped"
    app.release(2)
    assert visitor.wait("s.settled")["run"]["state"] == "finished"
    stranger.close()


def test_a_failing_rank_is_named(app: Rigged, visitor: Visitor) -> None:
    (app.rig / "raise-1-3").write_text("no more balloons")
    visitor.choose(SAMPLE)
    visitor.run()
    state = visitor.wait("s.settled")
    assert state["run"]["state"] == "failed" and state["drawn"] <= 5
    assert "Rank 1" in state["status"] and "no more balloons" in state["status"]
    visitor.run()
    assert visitor.wait("s.settled")["run"]["state"] == "finished"


def test_a_dead_rank_and_the_same_page_again(app: Rigged, visitor: Visitor) -> None:
    visitor.choose(SAMPLE)
    visitor.run()
    visitor.wait("s.settled && s.drawn === 17")
    first = visitor.state["boot"]
    visitor.page.wait_for_function("document.querySelector('.video-file').href.startsWith('blob:')")
    (app.rig / "kill-0-1").touch()
    visitor.page.click("#run")
    visitor.page.wait_for_selector(".banner:not([hidden])")
    assert "reconnecting" in visitor.page.inner_text(".banner")
    state = visitor.wait(f"!s.lost && s.boot !== {first!r}")
    visitor.page.wait_for_selector(".banner", state="hidden")
    assert not state["active"] and visitor.page.is_enabled("#run")
    visitor.choose(SAMPLE)
    visitor.run()
    assert visitor.wait("s.settled")["run"]["state"] == "finished"


def test_what_was_finished_outlives_the_server(
    app: Rigged, browser: Browser, visitor: Visitor, tmp_path: Path
) -> None:
    visitor.choose(SAMPLE)
    visitor.run()
    visitor.wait("s.settled && s.drawn === 17")
    visitor.page.wait_for_function("document.querySelector('.video-file').href.startsWith('blob:')")
    first = visitor.state["boot"]
    other = Visitor(browser, app.url)
    (app.rig / "kill-1-1").touch()
    other.choose(SAMPLE)
    other.run()
    visitor.wait(f"!s.lost && s.boot !== {first!r}")
    assert len(iio.imread(download(visitor, ".video-file", tmp_path), plugin="FFMPEG")) == NUM_FRAMES
    visitor.page.focus(".stage")
    visitor.page.keyboard.press("Home")
    visitor.wait("s.shown === 0")
    other.wait("!s.active")
    assert other.state["run"]["state"] in ("failed", "gone")
    other.close()
