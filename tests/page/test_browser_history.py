"""The page in a browser: the list of runs, several files, dropped and pasted ones, and what a reload keeps."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page
from support.app_runner import wait_for
from support.browser import SAMPLE, Rigged, Visitor

from wanvae_app.config import PRESETS

NUM_FRAMES = 5  # of the latents below
# Dispatches an event with a file to an element.
GIVE = """([selector, type, name, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    const options = { bubbles: true, cancelable: true };
    const event = type === "paste"
        ? new ClipboardEvent(type, { ...options, clipboardData: data })
        : new DragEvent(type, { ...options, dataTransfer: data });
    document.querySelector(selector).dispatchEvent(event);
    return event.defaultPrevented;
}"""


def latent(folder: Path, name: str, seed: int = 0) -> Path:
    """A small latent, as a file."""
    path = folder / f"{name}.npy"
    np.save(path, np.random.default_rng(seed).normal(size=(1, 16, 2, 4, 6)).astype(np.float32))
    return path


def give(page: Page, selector: str, kind: str, path: Path) -> bool:
    """Let a file be dropped on an element, or pasted; return whether the page takes it."""
    text = base64.b64encode(path.read_bytes()).decode()
    return page.evaluate(GIVE, [selector, kind, path.name, text])


def listed(visitor: Visitor) -> list[str]:
    """The names in the list of runs, in its order."""
    return visitor.page.locator(".past li b").all_inner_texts()


def server_runs(visitor: Visitor) -> list[dict[str, Any]]:
    return visitor.page.evaluate("fetch('runs').then(answer => answer.json()).then(({ runs }) => runs)")


def test_runs_are_listed_opened_and_deleted(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    page.wait_for_selector(".past .empty:visible")
    visitor.upload(latent(tmp_path, "one"))
    first = visitor.run()
    visitor.wait("s.settled")
    visitor.upload(latent(tmp_path, "two", 1))
    second = visitor.run()
    visitor.wait("s.settled")
    page.wait_for_url(f"**#a={second}*")
    page.wait_for_function("document.querySelectorAll('.past li img').length === 2")
    assert listed(visitor) == ["two.npy", "one.npy"] and page.is_hidden(".past .empty")
    assert "run 2: 5 frames in" in page.inner_text(".past li .outcome")
    assert page.locator(".past li .remove").first.get_attribute("aria-label") == "Delete run 2, two.npy"
    page.click(".past li:nth-child(2) .open")
    state = visitor.wait(f"s.job === '{first}' && s.settled && s.drawn === {NUM_FRAMES}")
    assert state["run"]["name"] == "one.npy"
    page.wait_for_url(f"**#a={first}*")

    tab = visitor.context.new_page()  # another tab, at the run's own address
    tab.goto(f"{visitor.url}/#run={second}")
    tab.wait_for_function(f"window.wanvae?.state.job === '{second}' && window.wanvae.state.settled")
    tab.wait_for_selector(f".past li[data-id='{second}'] .open[aria-current]")
    tab.evaluate("location.hash = '#run=nosuchrun'")
    tab.wait_for_function("window.wanvae.state.status.startsWith('Not there')")
    tab.close()

    remove = ".past li:first-child .remove"
    page.click(remove)
    assert page.inner_text(remove) == "Really delete" and len(server_runs(visitor)) == 2
    page.click(remove)
    page.wait_for_function("document.querySelectorAll('.past li').length === 1")
    assert [run["id"] for run in server_runs(visitor)] == [first]
    assert page.inner_text(".past .news") == "Deleted run 2, two.npy."
    assert page.evaluate("document.activeElement.title") == "Open run 1, one.npy", "the focus is not lost"


def test_several_files_become_several_runs_in_order(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    names = ["first", "second", "third"]
    rigged.hold(1)
    visitor.page.set_input_files("#file input[type=file]", [latent(tmp_path, name) for name in names])
    visitor.page.wait_for_selector("#about b:has-text('third.npy')")
    visitor.run()
    rigged.wait_held(1)
    visitor.page.wait_for_function("document.querySelectorAll('.past li').length === 3")
    assert [run["state"] for run in server_runs(visitor)] == ["queued", "queued", "running"]
    assert visitor.state["run"]["name"] == "first.npy"
    visitor.page.click(".past li:first-child .remove:has-text('Stop')")
    wait_for(lambda: server_runs(visitor)[0]["state"] == "stopped", 20)
    rigged.release(1)
    ends = ["stopped", "finished", "finished"]
    wait_for(lambda: [run["state"] for run in server_runs(visitor)] == ends, 60)
    runs = server_runs(visitor)
    assert [run["name"] for run in runs] == ["third.npy", "second.npy", "first.npy"]
    assert [run["number"] for run in runs] == [3, 2, 1]


def test_a_refused_file_among_several_says_why(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    page, wrong = visitor.page, tmp_path / "letter.npy"
    wrong.write_text("Dear Sir or Madam")
    files = [latent(tmp_path, "first"), wrong, latent(tmp_path, "third")]
    page.set_input_files("#file input[type=file]", files)
    page.wait_for_selector("#about b:has-text('third.npy')")
    about = page.inner_text("#about")
    assert about.count("The demo weights do not decode") == 1, "once for all files"
    assert "first.npy, third.npy: The demo weights do not decode" in about
    visitor.run()
    visitor.wait("s.settled")
    card = page.locator(".past li:has-text('letter.npy')")
    card.locator(".problem:visible").wait_for()
    assert card.locator(".problem").inner_text() == page.inner_text("#about .bad")
    assert "not run" in card.locator(".outcome").inner_text()


def test_a_file_has_one_name_everywhere(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    visitor.upload(latent(tmp_path, "a<b>c (1) & 'd'"))
    name = "abc (1) & 'd'"
    page.wait_for_selector(f'#file:has-text("{name}"):not(:has-text("<"))')
    assert page.locator("#file button[aria-label='Upload']").count() == 1
    assert page.locator("[aria-label^='common.']").count() == 0
    visitor.run()
    assert visitor.wait("s.settled && s.exact")["run"]["name"] == f"{name}.npy"
    page.wait_for_selector(".past li b")
    assert listed(visitor) == [f"{name}.npy"]
    assert page.inner_text(".pane.a .tag") == f"A · {name} · Run 1, 2 ranks, chunk 1"


def test_stop_cannot_be_pressed_after_a_reload_of_an_ended_run(
    rigged: Rigged, visitor: Visitor, tmp_path: Path
) -> None:
    page = visitor.page
    visitor.upload(latent(tmp_path, "one"))
    visitor.run()
    visitor.wait("s.settled")
    page.add_init_script("""setInterval(() => {
        const stop = document.getElementById("stop");
        if (stop) window.enabled = [...(window.enabled ?? []), !stop.disabled];
    }, 5)""")
    page.reload()
    page.wait_for_function("window.wanvae?.state.settled && window.wanvae.state.exact")
    assert page.evaluate("enabled.length") > 0 and not page.evaluate("enabled.some(Boolean)")


def test_files_are_taken_wherever_they_are_dropped_or_pasted(
    rigged: Rigged, visitor: Visitor, tmp_path: Path
) -> None:
    page, about = visitor.page, "#file:has-text('{}')"
    page.wait_for_selector("#file input[type=file]", state="attached")
    visitor.choose(SAMPLE)
    path = latent(tmp_path, "dropped")
    assert give(page, ".stage", "dragover", path), "else the browser opens the file"
    give(page, ".stage", "dragenter", path)
    page.wait_for_selector("body.dropping")
    assert give(page, ".stage", "drop", path)
    page.wait_for_selector(about.format("dropped"))
    assert page.locator("body.dropping").count() == 0 and page.locator(".sample.chosen").count() == 0
    assert give(page, "#header", "paste", latent(tmp_path, "pasted"))
    page.wait_for_selector(about.format("pasted"))
    assert "dropped" not in page.inner_text("#file")
    page.wait_for_selector("#about p:has-text('5 frames of 48 x 32')")


def test_a_reload_keeps_input_and_settings(rigged: Rigged, visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    visitor.upload(latent(tmp_path, "mine"))
    page.click("#options button")
    page.click("#parallel input")
    page.fill("#chunk input[type=number]", "3")
    page.click("#scaling label:has-text('Raw')")
    page.wait_for_function("JSON.parse(sessionStorage['wanvae-choices'])[4] === 'Raw'")
    page.wait_for_function("JSON.parse(sessionStorage['wanvae-choices'])[3] === 3")
    page.reload()
    page.wait_for_selector("#about p:has-text('5 frames of 48 x 32')")
    page.click("#options button")
    assert "mine" in page.inner_text("#file") and not page.is_checked("#parallel input")
    assert page.input_value("#chunk input[type=number]") == "3"
    assert page.is_checked("#scaling label:has-text('Raw') input")
    visitor.run()
    run = visitor.wait("s.settled")["run"]
    assert (run["parallel"], run["chunk"], run["scaling"]) == (False, 2, "raw")
    other = Visitor(page.context.browser, visitor.url)
    other.page.click("#options button")
    assert other.page.is_checked("#parallel input"), "another visitor has the defaults"
    other.close()


def test_a_wan_models_latent_is_told_at_the_upload_and_beside_the_result(
    rigged: Rigged, visitor: Visitor, tmp_path: Path
) -> None:
    config, path = PRESETS["wan2.1"], tmp_path / "wan.npy"
    z = np.random.default_rng(0).normal(size=(1, 16, 2, 4, 6))
    mean, std = (np.reshape(values, (1, 16, 1, 1, 1)) for values in (config.latents_mean, config.latents_std))
    np.save(path, (z * std + mean).astype(np.float32))
    visitor.upload(path)
    words = r"demo weights do not decode it: start \./launch\.sh --vae Wan-AI/"
    assert re.search(words, visitor.page.inner_text("#about p.warn"))
    visitor.run()
    visitor.wait("s.settled")
    assert re.search(words, visitor.page.inner_text(".misfit[data-tone=bad]"))
    visitor.choose(SAMPLE)
    visitor.page.wait_for_selector("#about:has-text('256 x 256'):not(:has(p.warn))")
