"""Several VAEs in the whole app: the choice on the page and in the API, and a restart of the ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gradio_client import Client, handle_file
from playwright.sync_api import Browser
from support.app_runner import ROOT, App, running_app, wait_for
from support.browser import SAMPLE, Visitor
from support.tiny import tiny_checkpoint

SAMPLES = ROOT / "assets" / "samples"
DEMO, LIGHT, OTHER = "demo_vae", "a light one", "wide-2.2"

ORDER = "stuck"  # a file: if it is there, rank 1 deletes it and hangs when it loads weights
STUCK = """
import os, sys, time
sys.path.insert(0, {root!r})
import app
from wanvae_app.jobs import vae_cache

def load_vae(*args, original=vae_cache.load_vae, **options):
    if os.environ["RANK"] == "1" and os.path.exists({order!r}):
        os.unlink({order!r})
        time.sleep(3600)
    return original(*args, **options)

vae_cache.load_vae = load_vae
app.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vaes")


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    light = tiny_checkpoint(folder / "light.safetensors")
    other = tiny_checkpoint(folder / f"{OTHER}.safetensors", 4, "wan2.2")
    sources = [str(ROOT / "assets" / "demo_vae"), f"{LIGHT}={light}", str(other)]
    arguments = [text for source in sources for text in ("--vae", source)]
    script = folder / "stuck.py"
    script.write_text(STUCK.format(root=str(ROOT), order=str(folder / ORDER)))
    with running_app(folder / "log", script=script, arguments=arguments) as app:
        yield app


@pytest.fixture
def latent_of_2_2(folder: Path) -> Path:
    path = folder / "other.pt"
    torch.save(torch.randn(1, 48, 2, 4, 4), path)
    return path


def loaded(app: App) -> list[str]:
    vaes: Any = (app.health() or {})["vaes"]
    assert [vae["name"] for vae in vaes] == [DEMO, LIGHT, OTHER]
    return [vae["name"] for vae in vaes if vae["loaded"]]


def test_a_rank_that_hangs_while_it_loads_is_restarted_and_the_choice_is_kept(app: App, folder: Path) -> None:
    sample = handle_file(SAMPLES / f"{SAMPLE}.safetensors")
    boot = (app.health() or {})["boot"]
    assert loaded(app) == [DEMO]
    (folder / ORDER).touch()
    client = Client(app.url, verbose=False, download_files=folder)
    client.submit(sample, True, 4, "Raw", LIGHT, api_name="/run")
    wait_for(lambda: (app.health() or {}).get("boot", boot) != boot, 60, app)
    words = (app.health() or {})["last_words"]
    assert re.fullmatch(rf"rank 1 was stuck for \d+ s in loading {LIGHT}", words), words
    assert loaded(app) == [DEMO]
    client = Client(app.url, verbose=False, download_files=folder)
    last, *_ = client.predict(sample, True, 4, "Raw", LIGHT, api_name="/run")
    assert last["state"] == "finished" and loaded(app) == [DEMO, LIGHT]


def test_the_api_takes_a_name(app: App, folder: Path, latent_of_2_2: Path) -> None:
    client = Client(app.url, verbose=False, download_files=folder)
    sample = handle_file(SAMPLES / f"{SAMPLE}.safetensors")
    for options, name in (({}, DEMO), ({"vae": LIGHT}, LIGHT)):
        last, *_ = client.predict(sample, True, 4, "Raw", api_name="/run", **options)
        assert last["state"] == "finished" and last["vae"] == name
    assert [row["vae"] for row in last["rows"]] == [DEMO, LIGHT]
    assert last["comparison"]["vae"] == [DEMO, LIGHT] and last["comparison"]["max_abs"] > 1
    refused = {
        (
            SAMPLES / f"{SAMPLE}.safetensors",
            "/etc/passwd",
        ): f"There is no VAE '/etc/passwd' here; choose one of {DEMO}, {LIGHT}, {OTHER}.",
        (
            latent_of_2_2,
            LIGHT,
        ): f"{latent_of_2_2.name} has 48 latent channels where {LIGHT} takes 16: choose {OTHER} as the VAE.",
        (
            SAMPLES / f"{SAMPLE}.safetensors",
            OTHER,
        ): f"has 16 latent channels where {OTHER} takes 48: choose {DEMO} or {LIGHT} as the VAE.",
    }
    for (path, vae), sentence in refused.items():
        with pytest.raises(Exception, match="VAE") as refusal:
            client.predict(handle_file(path), True, 1, "Auto", vae, api_name="/run")
        assert sentence in str(refusal.value)


def test_the_page_offers_a_choice(app: App, browser: Browser, latent_of_2_2: Path) -> None:
    visitor = Visitor(browser, app.url)
    page = visitor.page

    def choose(vae: str) -> None:
        page.click("#vae input")
        page.click(f"[role=option][aria-label^='{vae} (']")
        page.wait_for_function(f"document.querySelector('#vae input').value.startsWith({vae!r})")

    assert page.locator("#vae input").input_value() == f"{DEMO} (Wan 2.1 VAE, width 16)"
    visitor.choose(SAMPLE)
    visitor.run()
    visitor.wait("s.settled")
    page.click("#options button")
    page.fill("#chunk input[type=number]", "3")
    choose(LIGHT)
    page.wait_for_selector(f"#which:text-is('{LIGHT} (Wan 2.1 VAE, width 4)')")
    page.wait_for_function("document.querySelector('#chunk input[type=number]').value === '1'")
    # Samples are the demo VAE's latents; for others only the videos are left.
    page.wait_for_function("!document.querySelector('.sample em').textContent.includes('latent')")
    visitor.run()
    visitor.wait("s.settled && s.run.comparison")
    rows = [row.split("\t")[1] for row in page.locator(".runs tbody tr").all_inner_texts()]
    assert rows == [DEMO, LIGHT]
    assert f"{LIGHT} (run 2)" in page.inner_text(".comparison")
    visitor.upload(latent_of_2_2)
    assert f"where {LIGHT} takes 16: choose {OTHER} as the VAE." in page.inner_text("#about .bad")
    choose(OTHER)
    page.wait_for_selector("#about p:not(.bad)")
    assert "Latent, 48 x 2 x 4 x 4: 5 frames of 64 x 64." in page.inner_text("#about")
    visitor.run()
    visitor.wait("s.settled")
    assert visitor.state["run"]["vae"] == OTHER and visitor.state["run"]["state"] == "finished"
    visitor.close()
