"""The page in a browser, with the app on two ranks: what one person does on it."""

from __future__ import annotations

import re
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image
from safetensors.torch import load_file
from support.browser import NUM_FRAMES, SAMPLE, Rigged, Visitor

ROOT = Path(__file__).resolve().parents[2]


def test_first_sight(rigged: Rigged, visitor: Visitor) -> None:
    page = visitor.page
    assert page.locator(".sample").count() == 5
    page.wait_for_selector("#stop[disabled]")
    assert page.is_enabled("#run")
    assert page.is_checked("#parallel input") and "Parallel (2 ranks)" in page.inner_text("#parallel")
    assert "2 ranks on CPU" in page.inner_text("#header")
    assert page.inner_text("#path") == "plain PyTorch" and page.get_attribute("#path", "title") == "No GPU"
    assert "plain PyTorch: no GPU" in rigged.app.log()
    assert {url.split("/")[2] for url in visitor.requests if url.startswith("http")} == {
        rigged.url.split("/")[2]
    }
    page.click("#run")  # with nothing chosen
    page.wait_for_function("document.querySelector('.status').dataset.tone === 'bad'")
    assert "Choose a sample" in visitor.state["status"]
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_frames_are_seen_while_the_decode_is_held(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    rigged.hold(4)
    visitor.choose(SAMPLE)
    job = visitor.run()
    rigged.wait_held(4)
    state = visitor.wait("s.drawn >= 9")
    assert state["drawn"] == state["received"] == 9 and state["shown"] == 8
    assert visitor.contrast() > 10
    server = visitor.page.evaluate(f"fetch('live/{job}/state').then(answer => answer.json())")
    assert (server["state"], server["frames"], server["num_frames"]) == ("running", 9, NUM_FRAMES)
    assert rigged.app.health()["state"] == "busy"
    rigged.release(4)
    state = visitor.wait("s.settled && s.drawn === 17 && !s.playing")
    assert state["run"]["state"] == "finished" and state["complete"]
    # Replaying and scrubbing ask nothing of the server.
    visitor.page.focus(".stage")
    for key, frame in (("Home", 0), ("ArrowRight", 1), ("End", 16), ("Shift+ArrowLeft", 6), (" ", 16)):
        visitor.page.keyboard.press(key)
        visitor.wait(f"s.shown === {frame}")
    visitor.page.locator(".scrub").fill("3")
    visitor.wait("s.shown === 3")
    assert visitor.page.inner_text(".frame") == "4 / 17"
    video = visitor.download(".video-file", tmp_path)
    assert video.name == "Rolling marbles-decoded.mp4"
    assert iio.imread(video, plugin="FFMPEG").shape == (NUM_FRAMES, 256, 256, 3)


def test_parallel_on_and_off_are_compared(rigged: Rigged, visitor: Visitor) -> None:
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
    assert re.match(
        r"Parallel \(run 1\) (was|took) \d+\.\d\d times as (fast|long) as rank 0 alone \(run 2\)\. ", text
    )
    # One step of 255 where the two kinds of convolution round differently; none on the CPUs seen so far.
    assert state["run"]["comparison"]["max_abs"] <= 1
    assert ("identical" in text) == (state["run"]["comparison"]["max_abs"] == 0)


def test_stop_and_run_again(rigged: Rigged, visitor: Visitor) -> None:
    rigged.hold(3)
    visitor.choose(SAMPLE)
    visitor.run()
    rigged.wait_held(3)
    visitor.wait("s.drawn === 5")
    visitor.page.click("#stop")
    visitor.wait("s.status.startsWith('Stopping')")
    rigged.release(3)
    state = visitor.wait("s.settled")
    assert state["run"]["state"] == "stopped" and 5 <= state["received"] < NUM_FRAMES
    visitor.page.focus(".stage")
    visitor.page.keyboard.press("Home")
    visitor.wait("s.shown === 0")
    visitor.run()
    assert visitor.wait("s.settled")["run"]["state"] == "finished"


def test_a_wrong_file_costs_nothing(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    visitor.choose(SAMPLE)
    job = visitor.run()
    visitor.wait("s.settled")
    wrong = tmp_path / "letter.safetensors"
    wrong.write_text("Dear Sir or Madam")
    assert visitor.page.locator(".sample.chosen").count() == 1
    visitor.upload(wrong)
    assert visitor.page.locator(".sample.chosen").count() == 0
    visitor.page.wait_for_selector("#about .bad")
    visitor.page.click("#run")
    visitor.page.wait_for_function("document.querySelector('.status').dataset.tone === 'bad'")
    state = visitor.state
    reason = visitor.page.inner_text("#about .bad")
    assert state["status"].startswith("Not run") and reason in state["status"]
    assert visitor.page.locator(".toast-body").count() == 0
    assert state["job"] == job and state["received"] == NUM_FRAMES  # the run before stays on the page
    assert visitor.page.locator(".runs tbody tr").count() == 1
    visitor.choose(SAMPLE)
    visitor.page.wait_for_selector("#about p:not(.bad)")
    visitor.run()
    assert visitor.wait("s.settled")["run"]["state"] == "finished"


def test_a_video_there_and_back(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
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
    assert visitor.state["mode"] == "side" and visitor.state["b"] == f"{visitor.state['job']}.source"
    assert visitor.page.inner_text(".pane.a .tag") == "A · mine · Run 1, 2 ranks, chunk 1"
    assert visitor.page.inner_text(".pane.b .tag") == "B · mine · source"
    for mode in ("wipe", "difference", "single"):
        visitor.page.click(f"[data-mode={mode}]")
        visitor.page.wait_for_function("document.querySelector('canvas').width === 200")
        assert visitor.state["mode"] == mode
    # The latent that was downloaded is a latent to upload.
    normalised = visitor.download(".latent-file", tmp_path)
    visitor.page.select_option(".latent-format", "ComfyUI raw")
    raw = visitor.download(".latent-file", tmp_path)
    assert (normalised.name, raw.name) == ("mine-latent.safetensors", "mine-latent-raw.latent")
    assert load_file(raw)["latent_tensor"].shape == load_file(normalised)["latent"].shape
    visitor.upload(normalised)
    assert "17 frames of 200" in visitor.page.inner_text("#about")


def test_a_reload_finds_the_run_again(rigged: Rigged, visitor: Visitor) -> None:
    rigged.hold(3)
    visitor.choose(SAMPLE)
    job = visitor.run()
    rigged.wait_held(3)
    visitor.page.reload()
    visitor.page.wait_for_function("window.wanvae")
    state = visitor.wait("s.run && s.drawn === 5")
    assert state["job"] == job and state["active"]
    rigged.release(3)
    assert visitor.wait("s.settled && s.drawn === 17")["run"]["state"] == "finished"


def test_the_chosen_theme_outlives_a_reload(visitor: Visitor) -> None:
    page = visitor.page
    dark = "document.body.classList.contains('dark')"
    before = page.evaluate(dark)
    for chosen in (not before, before):
        page.click("#theme")
        page.reload()
        page.wait_for_function("window.wanvae")
        assert page.evaluate(dark) is chosen
        assert page.inner_text("#theme") == ("Light" if chosen else "Dark")


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


def test_a_clip_is_downloaded_as_another_kind_of_file(visitor: Visitor, tmp_path: Path) -> None:
    visitor.choose(SAMPLE)
    visitor.run()
    visitor.wait("s.settled")
    page = visitor.page
    page.click(".export summary")
    page.select_option(".export select", label="MKV, FFV1, 16 bit")
    assert "before it is rounded to 8 bits" in page.inner_text(".export .purpose")
    assert page.inner_text(".export .progress-text") == "The clip is decoded again for it."
    with page.expect_download() as event:  # as soon as it is there, without another click
        page.click(".export button")
        page.wait_for_function("document.querySelector('.export button').textContent === 'Stop'")
    assert event.value.suggested_filename == "Rolling marbles-ffv1-16.mkv"
    event.value.save_as(tmp_path / "a.mkv")
    assert iio.imread(tmp_path / "a.mkv", plugin="FFMPEG").shape == (NUM_FRAMES, 256, 256, 3)
    page.wait_for_selector(".export a:not([hidden])")
    assert page.inner_text(".export .progress-text").endswith(" MB.")
