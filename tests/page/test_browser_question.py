"""A latent whose scaling cannot be told, in a browser: two pictures, a click, and the run reads it so."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from support.browser import SAMPLE, Rigged, Visitor

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "assets" / "samples"


def test_the_picture_that_is_clicked_is_how_the_run_reads_it(
    rigged: Rigged, visitor: Visitor, tmp_path: Path
) -> None:
    """The demo VAE's latents look alike in both scalings, so they are asked about unless the file says it."""
    page = visitor.page
    visitor.choose(SAMPLE)
    z = load_file(FOLDER / f"{SAMPLE}.safetensors")["latent"]
    save_file({"latents": z, "noise": torch.randn_like(z)}, tmp_path / "mine.safetensors")
    visitor.upload(tmp_path / "mine.safetensors")
    page.wait_for_selector("#question .reading")
    assert "not certain" in page.inner_text("#about") and "also holds noise" in page.inner_text("#about")
    options = page.locator("#question .reading")
    names = options.all_inner_texts()
    assert {"latents: Normalised", "latents: Raw", "noise"} == set(names)
    assert page.locator("#question img").count() == 3
    assert page.evaluate("document.querySelector('#question img').naturalWidth") == 256
    page.locator("#question").screenshot(path=tmp_path / "question.png")
    for name, scaling in (("latents: Raw", "raw"), ("latents: Normalised", "normalised")):
        options.nth(names.index(name)).click()
        page.wait_for_function(
            f"document.querySelector('[aria-pressed=true].reading')?.innerText === '{name}'"
        )
        visitor.run()
        run = visitor.wait("s.settled")["run"]
        assert run["scaling"] == scaling and f"Taken as {scaling}, as you chose." in run["note"]
    visitor.choose(SAMPLE)
    page.wait_for_function("!document.querySelector('#question .reading')")
    visitor.run()
    assert "as the file says" in visitor.wait("s.settled")["run"]["note"]
