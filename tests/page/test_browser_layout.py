"""The page on screens of all sizes, for keyboards and for screen readers; and our styles on Gradio's elements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page
from support.browser import SAMPLE, Rigged, Visitor
from support.video_files import pattern

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
OURS = ["#header", "#samples", "#about", "#player", "#history"]  # the rest is Gradio's
FIND_PROBLEMS = """async ours => {
    const found = await axe.run({ include: ours.map(name => [name]) }, { resultTypes: ["violations"] });
    const tell = ({ target, failureSummary }) => `${target}: ${failureSummary}`;
    return found.violations.map(({ id, nodes }) => [id, ...nodes.map(tell)]);
}"""
# Selectors of a style sheet that match nothing on the page, without what only says a state. Those within @media get
# a selector of Gradio's before them.
FIND_UNMATCHED = r"""text => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(text);
    const split = (rule, prefix) => rule.selectorText.split(/,(?![^(]*\))/).map(one => prefix + one.trim());
    const flat = (rules, prefix) => [...rules].flatMap(rule =>
        rule.selectorText ? split(rule, prefix) : rule.cssRules ? flat(rule.cssRules, ".contain ") : []);
    const inner = /:(not|has)\([^()]*\)/g; // those that hold no other
    const states = /::?(before|after|backdrop|hover|active|disabled|focus-visible|fullscreen|empty|-[a-z-]+)/g;
    const values = /\[(data-state|data-tone|data-mode|aria-pressed|hidden)[^\]]*\]/g;
    return flat(sheet.cssRules, "").filter(selector => {
        const parts = [inner, inner, inner, states, values];
        const plain = parts.reduce((short, part) => short.replace(part, ""), selector);
        return plain.trim() && !document.querySelector(plain);
    });
}"""
# What can be used and lies beyond the edge of the window, or has no room for its words.
FIND_CUT = """() => [...document.querySelectorAll(".theatre .control, .theatre .play, .theatre .frame")]
    .filter(element => element.checkVisibility())
    .filter(element => {
        const { left, right } = element.getBoundingClientRect();
        const isNarrow = element.tagName !== "SELECT" && element.scrollWidth > element.clientWidth;
        return left < 0 || right > innerWidth || isNarrow;
    }).map(element => `${element.className} ${element.innerText}`)"""
# Classes that elements have only at times that this test does not reach.
RARE = (
    ".filling",
    ".bad",
    ".stacked",
    ".uploading",
    ".chosen",
    ".column",
    "#vae",
    ".warn",
    ".dropping",
    "[data-sure]",
)


def finished(visitor: Visitor, *, runs: int = 1) -> Page:
    for _ in range(runs):
        visitor.choose(SAMPLE)
        visitor.run()
        visitor.wait("s.settled && s.exact")
    return visitor.page


def test_no_barriers_of_our_own(rigged: Rigged, browser: Browser) -> None:
    if not AXE.is_file():
        pytest.skip("`npm ci` installs axe-core, which looks for them")
    visitor = Visitor(browser, rigged.url, reduced_motion="reduce")
    page = visitor.page
    page.evaluate(AXE.read_text())

    def check(when: str) -> None:
        problems = page.evaluate(FIND_PROBLEMS, OURS)
        assert not problems, f"{when}: {problems}"

    check("before a run")
    finished(visitor, runs=2)
    page.wait_for_selector(".past li img")
    for mode in ("wipe", "difference"):
        page.click(f"[data-mode={mode}]")
        visitor.wait("s.exact")
        check(mode)
    page.click("#theme")
    page.click(".past .remove >> nth=0")  # asks again
    check("in the other theme")
    page.click(".help")
    check("list of keys")
    visitor.close()


def test_every_selector_of_ours_matches(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    page, texts = visitor.page, {path: path.read_text() for path in (ROOT / "assets" / "page").glob("*.css")}
    unmatched: set[str] = set()

    def look() -> None:
        nonlocal unmatched
        found = {selector for text in texts.values() for selector in page.evaluate(FIND_UNMATCHED, text)}
        unmatched = found if not unmatched else unmatched & found

    look()
    page.click("#options button")
    noise = np.random.default_rng(1).normal(size=(1, 16, 2, 8, 6))
    uneven = np.resize([0.5, 0.5, 2, 2], (16, 1, 1, 1))  # so it may be raw or normalised
    np.save(tmp_path / "latent.npy", (noise * uneven).astype(np.float32))
    visitor.upload(tmp_path / "latent.npy")
    page.wait_for_selector("#question .reading")
    look()
    finished(visitor)
    page.click(".borders")
    look()
    rigged.hold(2)
    visitor.choose("Fish pond")
    visitor.run()
    rigged.wait_held(2)
    look()
    rigged.release(2)
    visitor.wait("s.settled && s.exact")
    page.click(".zoom-in")
    look()
    page.click("[data-mode=flicker]")
    page.click("#theme")
    visitor.wait("s.mode === 'flicker'")
    page.evaluate("wanvae.player.stage.markStale()")
    look()
    left = [selector for selector in unmatched if not any(rare in selector for rare in RARE)]
    assert not left, "\n".join(left)


@pytest.mark.parametrize(
    ("width", "height"), [(1366, 640), (1280, 800), (844, 390), (740, 360), (3840, 2160)]
)
def test_run_and_picture_are_in_sight(visitor: Visitor, width: int, height: int) -> None:
    page = visitor.page
    page.set_viewport_size({"width": width, "height": height})
    visitor.choose(SAMPLE)
    for selector in ("#run", ".stage"):
        box = page.locator(selector).bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= height, (selector, box)
    stage = page.locator(".stage").bounding_box()
    assert stage is not None and stage["height"] > 0.55 * height
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_no_view_moves_the_stage(rigged: Rigged, visitor: Visitor) -> None:
    page = finished(visitor, runs=2)
    page.wait_for_selector(".found-clip:has-text('All 17 frames')")
    for width, height in ((1280, 800), (1366, 640), (390, 844), (844, 390)):
        page.set_viewport_size({"width": width, "height": height})
        boxes = {}
        for mode in ("single", "side", "wipe", "flicker", "difference"):
            page.click(f"[data-mode={mode}]")
            visitor.wait(f"s.mode === '{mode}' && s.exact")
            page.wait_for_selector(".found-frame:not(:empty)")
            boxes[mode] = page.evaluate(
                "JSON.stringify(document.querySelector('.stage').getBoundingClientRect())"
            )
        page.evaluate("wanvae.player.chooseSpeed('0.25')")
        page.evaluate("wanvae.player.toggle()")
        page.wait_for_selector(".quality:has-text('preview, exact when paused')")
        boxes["playing"] = page.evaluate(
            "JSON.stringify(document.querySelector('.stage').getBoundingClientRect())"
        )
        page.evaluate("wanvae.player.toggle()")
        assert len(set(boxes.values())) == 1, boxes


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (844, 390), (390, 844)])
def test_all_options_are_in_sight(visitor: Visitor, width: int, height: int) -> None:
    page = visitor.page
    page.set_viewport_size({"width": width, "height": height})
    page.click("#options button")
    last = page.locator("#scaling label:has-text('Raw')").bounding_box()
    box = page.locator("#options").bounding_box()
    assert last is not None and box is not None
    assert last["x"] + last["width"] <= box["x"] + box["width"] - 8, (last, box)


def test_nothing_is_cut_on_a_phone(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    page.click("#parallel input")
    finished(visitor, runs=2)
    page.wait_for_function("document.querySelectorAll('.past li img').length === 2")
    page.set_viewport_size({"width": 390, "height": 844})
    cut = page.evaluate("""() => [...document.querySelectorAll(".scroller, .past .outcome, .past .settings, .stats dd")]
        .filter(element => element.scrollWidth > element.clientWidth).map(element => element.className)""")
    assert not cut
    lefts = page.evaluate("""() => [...document.querySelectorAll(".stats div:not([hidden])")].map(cell => {
        const { left, right } = cell.getBoundingClientRect();
        return [Math.round(left), Math.round(right)];
    })""")
    assert len(lefts) == 5 and lefts[0] == lefts[2] and lefts[1] == lefts[3], "two columns"
    assert lefts[4] == [lefts[0][0], lefts[1][1]], "and no incomplete row"
    room = page.evaluate("""() => [...document.querySelectorAll(".pick")].map(select => {
        const context = document.createElement("canvas").getContext("2d");
        const { font, paddingLeft, paddingRight } = getComputedStyle(select);
        context.font = font;
        const { width } = context.measureText(select.selectedOptions[0].text);
        return select.clientWidth - width - parseFloat(paddingLeft) - parseFloat(paddingRight);
    })""")
    assert page.inner_text(".pick.a option:checked") == "Run 2, rank 0 alone, chunk 1" and min(room) >= 0
    heads = page.locator(".runs thead th").all_text_contents()
    labels = page.locator(".runs tbody tr:last-child td").evaluate_all(
        "cells => cells.map(cell => cell.dataset.label)"
    )
    assert labels == heads[1:], "each number is called as in the table"
    page.click("#parallel input")
    visitor.upload(pattern(tmp_path / "mine.mp4"))
    visitor.run()
    visitor.wait("s.settled && s.exact")
    page.wait_for_selector(".borders:visible")
    page.wait_for_selector(".export summary:visible")
    for width in (320, 360, 390, 430, 600):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate(FIND_CUT) == [], width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for menu in (".export", ".save"):
            page.click(f"{menu} summary")
            assert page.evaluate(FIND_CUT) == [], (width, menu)
            page.click(f"{menu} summary")


def test_a_phone_loses_little_of_its_width(visitor: Visitor) -> None:
    page = visitor.page
    page.set_viewport_size({"width": 390, "height": 844})
    stage = page.locator(".stage").bounding_box()
    assert stage is not None and stage["width"] >= 370
    finished(visitor, runs=2)
    page.click("[data-mode=wipe]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".stage").bounding_box()
    assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= 844, "Run scrolls to the picture"


def test_keys_reach_the_page_and_the_focus_stays(rigged: Rigged, visitor: Visitor) -> None:
    page = visitor.page
    visitor.choose(SAMPLE)
    page.evaluate("""() => {
        window.spoken = [];
        const line = document.querySelector("[role=status].announcer");
        new MutationObserver(() => spoken.push(line.textContent)).observe(line, { childList: true });
    }""")
    page.focus("#run")
    page.keyboard.press("Enter")
    visitor.wait("s.settled && s.drawn === 17")
    assert page.evaluate("document.activeElement.className") == "stage"
    spoken: list[Any] = page.evaluate("spoken")
    assert len(spoken) <= 6 and spoken[-1].startswith("Finished. 17 frames"), spoken
    outline = page.evaluate("""() => {
        document.querySelector(".scrub").focus();
        return getComputedStyle(document.activeElement).outlineStyle;
    }""")
    page.keyboard.press("ArrowLeft")
    assert (
        outline == "solid"
        or page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    )
    assert page.title() == "Wan VAE"


def test_the_title_says_how_far_a_run_is(rigged: Rigged, visitor: Visitor) -> None:
    rigged.hold(1)
    rigged.hold(4)
    visitor.choose(SAMPLE)
    visitor.run()
    rigged.wait_held(1)
    visitor.wait("s.a")
    assert visitor.page.inner_text(".zoom .percent") == "–", "there is no picture yet"
    rigged.release(1)
    rigged.wait_held(4)
    visitor.wait("s.drawn === 9")
    assert visitor.page.title() == "53 % · Wan VAE"
    assert "left." in visitor.state["status"]
    rigged.release(4)
    visitor.wait("s.settled")
    visitor.page.wait_for_function("document.title === 'Wan VAE'")


def test_a_number_of_frames_is_whole(visitor: Visitor) -> None:
    page = visitor.page
    page.click("#options button")
    field = page.locator("#chunk input[type=number]")
    field.fill("2.5")
    field.blur()
    page.wait_for_function("document.querySelector('#chunk input[type=number]').value === '3'")


FIND_MOVING = """() => [...document.querySelectorAll("#header *, #player *, #question *, #history *")]
    .filter(element => {
        const { animationName, transitionDuration } = getComputedStyle(element);
        return animationName !== "none" || transitionDuration.split(",").some(time => parseFloat(time) > 0);
    }).map(element => `${element.tagName} ${element.className}`)"""


def test_who_asks_for_less_motion_gets_none(visitor: Visitor) -> None:
    assert visitor.page.evaluate(FIND_MOVING), "something moves for the others"
    visitor.page.emulate_media(reduced_motion="reduce")
    try:
        assert visitor.page.evaluate(FIND_MOVING) == []
    finally:
        visitor.page.emulate_media(reduced_motion="no-preference")
