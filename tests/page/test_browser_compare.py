"""Comparing in a browser: two runs as A and B, their exact values, one changed pixel, the modes, the address."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from support.browser import NUM_FRAMES, SAMPLE, Rigged, Visitor
from support.video_files import pattern

BORDER = 128  # row of the sample's 256 at which the slabs of two ranks meet
FRAME, ROW, COLUMN = 5, 130, 77  # of the pixel that is changed
PIXELS = """side => {
    const canvas = document.querySelector(`.pane.${side} canvas`);
    return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""


@pytest.fixture(scope="module")
def comparing(started: Rigged, browser: Browser) -> Iterator[Visitor]:
    """A visitor who has decoded the sample in parallel (run 1) and alone (run 2), and sees run 2 as A, run 1 as B."""
    visitor = Visitor(browser, started.url)
    visitor.choose(SAMPLE)
    visitor.run()
    visitor.wait("s.settled")
    visitor.page.click("#parallel input")
    visitor.run()
    visitor.wait("s.settled && s.exact && s.drawn === 17")
    yield visitor
    visitor.close()


def choose_mode(visitor: Visitor, mode: str) -> None:
    visitor.page.click(f"[data-mode={mode}]")
    visitor.wait(f"s.mode === '{mode}' && s.exact")


def seek(visitor: Visitor, frame: int) -> None:
    visitor.page.locator(".scrub").fill(str(frame))
    visitor.wait(f"s.shown === {frame} && s.exact")


def exact(page: Page, run: str, frame: int) -> np.ndarray:
    """The frame as the server has it, uint8 [H, W, 3]."""
    script = "async path => [...new Uint8Array(await (await fetch(path)).arrayBuffer())]"
    data = bytes(page.evaluate(script, f"live/{run}/frame/{frame}.png"))
    return np.asarray(Image.open(io.BytesIO(data)))


def pixels(page: Page, side: str) -> np.ndarray:
    """What is on the canvas of a side, uint8 [H, W, 3]."""
    data = np.array(page.evaluate(PIXELS, side), np.uint8)
    height = page.evaluate("side => document.querySelector(`.pane.${side} canvas`).height", side)
    return data.reshape(height, -1, 4)[..., :3]


def point(page: Page, row: int, column: int) -> dict[str, float]:
    """Where on the page a pixel of A is seen."""
    script = """([x, y]) => {
        const canvas = document.querySelector(".pane.a canvas");
        const box = canvas.getBoundingClientRect();
        return { x: box.left + ((x + 0.5) * box.width) / canvas.width,
                 y: box.top + ((y + 0.5) * box.height) / canvas.height };
    }"""
    return page.evaluate(script, [column, row])


def test_parallel_and_alone_to_the_pixel(comparing: Visitor) -> None:
    page, state = comparing.page, comparing.state
    rows = state["run"]["rows"]
    assert [state["b"], state["a"]] == [row["id"] for row in rows]
    pressed = page.locator(".runs .sides [aria-pressed=true]").all()
    assert [button.get_attribute("aria-label") for button in pressed] == [
        "Show Run 1 as B",
        "Show Run 2 as A",
    ]
    page.click("button[aria-label='Show Run 1 as A']")
    page.click("button[aria-label='Show Run 2 as B']")
    comparing.wait(f"s.a === '{rows[0]['id']}' && s.b === '{rows[1]['id']}'")
    choose_mode(comparing, "side")
    seek(comparing, FRAME)
    for side, row in zip("ab", rows, strict=True):
        assert np.array_equal(pixels(page, side), exact(page, row["id"], FRAME))
    # Zoom to a border: what the pointer reads there is what the server has.
    place = point(page, BORDER, COLUMN)
    page.mouse.move(**place)
    for _ in range(6):
        page.mouse.wheel(0, -300)
    page.wait_for_selector(".pane.a canvas.squares")
    page.click(".borders")
    line = page.locator(".pane.a .lines i").bounding_box()
    assert line is not None and page.locator(".pane.b .lines i").count() == 0
    place = point(page, BORDER, COLUMN)
    scale = page.evaluate("wanvae.player.stage.scale / devicePixelRatio")
    assert abs(line["y"] - (place["y"] - scale / 2)) <= 1
    page.mouse.move(**place)
    values = [" ".join(map(str, exact(page, row["id"], FRAME)[BORDER, COLUMN])) for row in rows]
    expected = f"x {COLUMN} y {BORDER} A {values[0]} B {values[1]} A − B 0 0 0"
    page.wait_for_function(
        "text => document.querySelector('.values').textContent.split(/ +/).join(' ') === text", arg=expected
    )
    page.click(".borders")
    page.keyboard.press("0")
    page.wait_for_selector(
        ".found-clip:has-text('All 17 frames: largest difference 0 on the borders, 0 elsewhere.')"
    )
    assert page.inner_text(".curve .legend") == "PSNR: identical"


def test_one_pixel_changed_by_one_step_is_found(rigged: Rigged, browser: Browser) -> None:
    visitor = Visitor(browser, rigged.url)
    page = visitor.page
    visitor.choose(SAMPLE)
    first = visitor.run()
    visitor.wait("s.settled")
    touch = f"rig/touch?id={first}&frame={FRAME}&row={ROW}&column={COLUMN}"
    page.evaluate("path => fetch(path, { method: 'POST' })", touch)
    second = visitor.run()
    visitor.wait(f"s.settled && s.a === {second!r} && s.b === {first!r} && s.exact")
    # In the curve: one frame stands out.
    page.wait_for_selector(
        ".found-clip:has-text('All 17 frames: largest difference 1 on the borders, 0 elsewhere.')"
    )
    assert "to identical · largest difference 1 of 255" in page.inner_text(".curve .legend")
    bars = page.get_attribute(".curve .worst-bars", "d")
    assert bars is not None and bars.count("M") == 1 and bars.startswith(f"M{1000 * FRAME / 16:g} ")
    box = page.locator(".curve svg").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * FRAME / 16, box["y"] + 30)
    visitor.wait(f"s.shown === {FRAME}")
    # In the line.
    page.wait_for_selector(
        f".found-frame:has-text('on the borders, 0 elsewhere (x {COLUMN}, y {ROW}), PSNR')"
    )
    # In the difference, at a gain that shows it.
    choose_mode(visitor, "difference")
    page.select_option("select[aria-label='Gain of the difference']", "64")
    page.wait_for_selector(".colours:has-text('4 of 255')")
    visitor.wait("s.exact")
    seen = pixels(page, "difference")
    assert seen[ROW, COLUMN].any() and np.count_nonzero(seen.any(-1)) == 1
    visitor.close()


def test_a_wipe_follows_mouse_finger_and_keys(comparing: Visitor, browser: Browser) -> None:
    page = comparing.page
    choose_mode(comparing, "wipe")
    handle = page.get_by_role("slider", name="Wipe")
    assert handle.get_attribute("aria-valuenow") == "50"
    middle = page.locator(".wipe i").bounding_box()
    left = point(page, 100, 64)
    assert middle is not None
    page.mouse.move(middle["x"] + 13, middle["y"] + 13)
    page.mouse.down()
    page.mouse.move(left["x"], left["y"])
    page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "25"
    shown = comparing.state["shown"]
    handle.press("ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "27" and comparing.state["shown"] == shown
    # A finger that moves across is the page's own: it neither scrolls nor is cancelled.
    network = comparing.context.new_cdp_session(page)
    start, stop = point(page, 60, 200), point(page, 60, 128)

    def touch(kind: str, at: dict[str, float] | None) -> None:
        points = [{"x": at["x"], "y": at["y"]}] if at else []
        network.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", start)
    for share in (0.25, 0.5, 0.75, 1.0):
        touch("touchMove", {"x": start["x"] + share * (stop["x"] - start["x"]), "y": start["y"]})
    touch("touchEnd", None)
    page.wait_for_function("document.querySelector('.wipe').ariaValueNow === '50'")


def test_flicker_swap_and_exact_frames_by_key(comparing: Visitor) -> None:
    page = comparing.page
    choose_mode(comparing, "flicker")
    a, b = comparing.state["a"], comparing.state["b"]
    page.focus(".stage")
    behind = "document.querySelector('.pane.b').classList.contains('behind')"
    page.wait_for_function(behind)
    page.keyboard.down("b")
    page.wait_for_function(f"!{behind}")
    page.keyboard.up("b")
    page.wait_for_function(behind)
    page.keyboard.press("x")
    comparing.wait(f"s.a === {b!r} && s.b === {a!r}")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]:has-text('swap A and B')")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")
    page.keyboard.press("1")
    page.wait_for_function("document.querySelector('.percent').textContent === '100 %'")
    page.keyboard.press("Escape")


def test_a_clip_beside_itself_is_told(comparing: Visitor) -> None:
    page, before = comparing.page, comparing.state
    label = "button[aria-label='Show Run {} as {}']"
    page.click(label.format(1, "A"))
    if comparing.state["b"] != comparing.state["a"]:
        page.click(label.format(1, "B"))
    page.wait_for_selector(".found-clip:has-text('A and B are the same run')")
    comparing.wait("s.exact")
    clip = comparing.state["a"]
    assert comparing.state["b"] == clip and not any(f"/{clip}/{clip}/" in url for url in comparing.requests)
    for side in "ab":
        page.evaluate("choice => wanvae.comparison.choose(...choice)", [side, before[side]])
    page.wait_for_selector(".found-clip:has-text('All 17 frames')")


def test_frames_are_saved_as_png(comparing: Visitor, tmp_path: Path) -> None:
    seek(comparing, 3)
    frames = {}
    for what in ("a", "both"):
        comparing.page.click(".save summary")
        path = comparing.download(f"[data-save={what}]", tmp_path)
        frames[path.name] = np.asarray(Image.open(path))
    run = next(row for row in comparing.state["run"]["rows"] if row["id"] == comparing.state["a"])
    other = 3 - run["number"]
    first = frames[f"{SAMPLE}-run{run['number']}-frame4.png"]
    assert np.array_equal(first, exact(comparing.page, run["id"], 3))
    both = frames[f"{SAMPLE}-run{run['number']}-and-{SAMPLE}-run{other}-frame4.png"]
    assert both.shape[:2] == (256, 2 * 256 + 8) and np.array_equal(both[:, :256, :3], first)


def test_the_address_holds_what_is_compared(comparing: Visitor) -> None:
    choose_mode(comparing, "wipe")
    seek(comparing, 6)
    state = comparing.state
    comparing.page.wait_for_function("location.hash.includes('frame=6')")
    hash = urlsplit(comparing.page.url).fragment
    found = {name: values[0] for name, values in parse_qs(hash).items()}
    assert found == {"a": state["a"], "b": state["b"], "mode": "wipe", "frame": "6"}
    page = comparing.context.new_page()
    page.goto(comparing.page.url)
    page.wait_for_function("window.wanvae?.state.exact")
    page.wait_for_function("window.wanvae.state.shown === 6")
    opened: dict[str, Any] = page.evaluate("window.wanvae.state")
    assert {name: opened[name] for name in ("a", "b", "mode")} == {
        name: found[name] for name in ("a", "b", "mode")
    }
    page.close()


def test_a_frame_that_one_clip_alone_has(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    """It is exact, and nothing is asked for that is not there."""
    missing: list[str] = []
    visitor.page.on("response", lambda answer: missing.append(answer.url) if answer.status == 404 else None)
    visitor.upload(pattern(tmp_path / "short.mp4", frames=5))
    short = visitor.run()
    visitor.wait("s.settled && s.exact")
    visitor.upload(pattern(tmp_path / "long.mp4", frames=9))
    visitor.run()
    visitor.wait("s.settled && s.exact && s.shown === 8")
    visitor.page.evaluate(f"wanvae.comparison.choose('b', '{short}')")
    visitor.page.wait_for_selector(".found-frame:has-text('Frame 9 is in A alone.')")
    visitor.page.wait_for_selector(".found-clip:has-text('All 5 frames')")
    seek(visitor, 4)
    visitor.page.wait_for_selector(".found-frame:has-text('Frame 5: largest difference')")
    assert not missing


def test_an_address_of_deleted_runs_leaves_later_runs_alone(rigged: Rigged, browser: Browser) -> None:
    visitor = Visitor(browser, f"{rigged.url}/#a=deleted&b=gone&frame=3")
    visitor.page.wait_for_selector("text=Not there")
    visitor.page.goto("about:blank")
    visitor.page.goto(f"{rigged.url}/#a=../../etc")
    visitor.page.wait_for_selector("text=Not there")
    visitor.choose(SAMPLE)
    visitor.run()
    state = visitor.wait("s.settled && s.exact")
    assert state["a"] == state["job"] and state["b"] is None and state["shown"] == NUM_FRAMES - 1
    visitor.close()


def test_what_is_on_the_stage_while_a_run_waits(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    """The picture before, which says that it is; of a video that is stopped then, its source."""
    page = visitor.page
    visitor.upload(pattern(tmp_path / "one.mp4"))
    visitor.run()
    visitor.wait("s.settled && s.exact")
    choose_mode(visitor, "difference")
    rigged.hold(1)
    page.evaluate("fetch('rig/run', { method: 'POST' })")
    rigged.wait_held(1)
    visitor.upload(pattern(tmp_path / "two.mp4"))
    visitor.run()
    page.wait_for_selector(".stage .empty:visible:has-text('Waiting')")
    assert page.inner_text(".pane.difference .tag").startswith("Before: difference of one · Run 1")
    assert [page.inner_text(f".pick.{side} option") for side in "ab"] == ["–", "–"]
    pressed = page.locator("[data-mode][aria-pressed=true]").all_inner_texts()
    assert pressed == ["Difference"] and page.is_disabled("[data-mode=single]")
    assert page.inner_text(".curve .legend") == "No frames to compare"
    visitor.wait("s.run.source")
    page.click("#stop")
    state = visitor.wait("s.settled && s.exact")
    assert (state["a"], state["b"], state["mode"]) == (f"{state['job']}.source", None, "single")
    assert page.inner_text(".pane.a .tag") == "A · two · source" and not page.is_visible(".modes")


def test_only_what_is_seen_is_fetched(rigged: Rigged, browser: Browser) -> None:
    visitor = Visitor(browser, rigged.url)
    visitor.page.evaluate("wanvae.player.chooseMode('single')")
    visitor.choose("Fish pond")
    visitor.run()
    visitor.wait("s.settled && s.drawn > 1 && !s.playing")
    assert visitor.state["mode"] == "single" and visitor.state["b"].endswith(".source")
    assert not any("view=source" in url for url in visitor.requests)
    visitor.page.click("[data-mode=side]")
    visitor.wait("s.exact")
    assert sum("view=source" in url for url in visitor.requests) == 1
    visitor.close()


def test_runs_of_other_inputs_can_be_compared(rigged: Rigged, browser: Browser) -> None:
    """Whatever the server lists as the visitor's runs, if their frames are of the same size."""
    visitor = Visitor(browser, rigged.url)
    page = visitor.page
    visitor.choose(SAMPLE)
    first = visitor.run()
    visitor.wait("s.settled")
    page.click("#options button")
    page.click("#scaling label:has-text('Raw')")  # the same file in the other scaling is another input
    second = visitor.run()
    run = visitor.wait("s.settled && s.exact")["run"]
    shared = {"height": 256, "width": 256, "parallel": True, "ranks": 2, "chunk": 1, "frames_available": True}
    known = {"name": run["name"], "vae": "", "source": False, **shared}
    runs = [
        {"id": second, "number": 2, "input": "x", **known},
        {"id": first, "number": 1, "input": "y", "scaling": "normalised", **known},
        {"id": "small", "number": 3, "input": "z", **known, "height": 128},
    ]
    page.route("**/runs", lambda route: route.fulfill(json={"runs": runs}))
    page.focus(".pick.b")
    option = page.locator(".pick.b optgroup[label='Other inputs'] option")
    page.wait_for_function("document.querySelector('.pick.b optgroup[label=\"Other inputs\"]')")
    assert option.all_text_contents() == [f"{SAMPLE}, normalised: Run 1, 2 ranks, chunk 1"]
    page.select_option(".pick.b", "")
    visitor.wait("s.b === null && s.mode === 'single'")
    page.select_option(".pick.b", first)
    visitor.wait(f"s.b === {first!r}")
    page.wait_for_selector(".found-clip:has-text('All 17 frames: largest difference ')")
    page.evaluate("wanvae.comparison.choose('b', 'unknown')")
    page.wait_for_selector(".problem:has-text('This run has been deleted')")
    assert visitor.state["b"] == first
    visitor.close()


def test_two_fingers_zoom_and_f_fills_the_screen(comparing: Visitor) -> None:
    page = comparing.page
    choose_mode(comparing, "side")
    page.focus(".stage")
    page.keyboard.press("0")
    before = page.evaluate("wanvae.player.stage.scale")
    network = comparing.context.new_cdp_session(page)
    middle = point(page, 128, 128)

    def touch(kind: str, distance: float, count: int) -> None:
        points = [
            {"x": middle["x"] + sign * distance, "y": middle["y"], "id": i} for i, sign in enumerate((-1, 1))
        ]
        network.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points[:count]})

    touch("touchStart", 20, 1)
    touch("touchStart", 20, 2)
    for distance in (30, 40, 50, 60):
        touch("touchMove", distance, 2)
    touch("touchEnd", 0, 0)
    assert page.evaluate("wanvae.player.stage.scale") == pytest.approx(3 * before, rel=0.1)
    page.keyboard.press("0")
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement?.className === 'theatre'")
    page.wait_for_function("document.querySelector('.stage').getBoundingClientRect().width > innerWidth - 40")
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement === null")
