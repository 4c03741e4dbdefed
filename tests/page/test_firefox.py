"""The page in Firefox: loading, streaming, scrubbing, comparing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import SAMPLE, Rigged
from support.firefox import Tab, firefox, running_firefox

SAME_PIXELS = """(async () => {
    const { a, shown } = wanvae.state;
    const blob = await (await fetch(`live/${a}/frame/${shown}.png`)).blob();
    const picture = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    const exact = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
    exact.drawImage(picture, 0, 0);
    const seen = document.querySelector(".pane.a canvas").getContext("2d");
    const read = context => context.getImageData(0, 0, picture.width, picture.height).data;
    const [one, two] = [read(exact), read(seen)];
    return one.length > 0 && one.every((value, i) => value === two[i]);
})()"""


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    program = firefox()
    if program is None:
        pytest.skip("there is no Firefox (Debian: apt install firefox-esr)")
    with running_firefox(program, tmp_path) as tab:
        yield tab


def run(tab: Tab) -> None:
    tab.evaluate("document.querySelector('#run').click()")


def test_a_run_is_seen_and_compared(rigged: Rigged, tab: Tab) -> None:
    tab.open(rigged.url)
    tab.wait("window.wanvae && document.querySelector('#health').dataset.state === 'ready'")
    tab.evaluate(f"document.querySelector(\".sample[title='{SAMPLE}']\").click()")
    tab.wait("document.querySelector('#about p:not(.hint)')")
    rigged.hold(4)
    run(tab)
    rigged.wait_held(4)
    tab.wait("wanvae.state.drawn === 9")  # while the decode is held
    rigged.release(4)
    tab.wait("wanvae.state.settled && wanvae.state.drawn === 17 && wanvae.state.exact")
    tab.evaluate("document.querySelector('.stage').focus()")
    tab.press("\ue011")  # Home
    tab.press("\ue014")  # right arrow
    tab.wait("wanvae.state.shown === 1 && wanvae.state.exact")
    assert tab.evaluate(SAME_PIXELS)
    first = tab.evaluate("wanvae.state.job")
    run(tab)
    tab.wait(f"wanvae.state.job !== {first!r} && wanvae.state.settled && wanvae.state.exact")
    assert tab.evaluate("wanvae.state.b") == first
    for mode in ("side", "wipe", "difference"):
        tab.evaluate(f"document.querySelector('[data-mode={mode}]').click()")
        tab.wait(f"wanvae.state.mode === {mode!r} && wanvae.state.exact")
    tab.wait(
        "document.querySelector('.found-clip').textContent.startsWith('All 17 frames: largest difference 0 ')"
    )
