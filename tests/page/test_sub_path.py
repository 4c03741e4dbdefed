"""The page below a sub-path, behind a proxy that takes the sub-path off; GRADIO_ROOT_PATH names it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from gradio_client import Client, handle_file
from playwright.sync_api import Browser
from support.browser import TIMEOUT
from support.page_server import AUTH, running_server
from support.sub_path_proxy import running_proxy
from support.tiny import some_latent

SUB_PATH = "/tools/vae"


def test_everything_is_below_the_sub_path(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_ROOT_PATH", SUB_PATH)
    latent = tmp_path / "latent.pt"
    torch.save(some_latent(3), latent)
    with running_server(tmp_path) as server, running_proxy(server.url, SUB_PATH) as url:
        assert httpx.get(f"{url}health").json()["state"] == "ready"
        context = browser.new_context()
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        paths: set[tuple[str, ...]] = set()
        errors: list[str] = []
        page.on("request", lambda request: paths.add(urlsplit(request.url)[:3]))
        page.on("pageerror", lambda error: errors.append(str(error)))
        try:
            page.goto(url)
            page.locator("input").first.fill(AUTH[0])
            page.locator("input[type=password]").fill(AUTH[1])
            page.get_by_role("button", name="Login").click()
            page.wait_for_function("window.wanvae && health.dataset.state === 'ready'")
            page.set_input_files("#file input[type=file]", latent)
            page.wait_for_selector("#about p:not(.hint)")
            page.click("#run")
            page.wait_for_function("window.wanvae.state.settled && window.wanvae.state.drawn === 9")
            with page.expect_download() as download:
                page.click(".video-file")
            assert download.value.path().stat().st_size > 0
        finally:
            context.close()
        asked = [path for scheme, _, path in paths if scheme == "http"]
        assert not errors and len(asked) > 20
        assert not [path for path in asked if not path.startswith(f"{SUB_PATH}/")]
        client = Client(url, auth=AUTH, verbose=False)
        state, video, _ = client.predict(handle_file(latent), False, 1, "Auto", api_name="/run")
        assert state["state"] == "finished" and Path(video).stat().st_size > 0


@pytest.mark.parametrize("root", ["/", f"{SUB_PATH}/", f"https://box.example.org{SUB_PATH}"])
def test_other_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.setenv("GRADIO_ROOT_PATH", root)
    with running_server(tmp_path) as server, running_proxy(server.url, SUB_PATH) as url:
        assert httpx.get(f"{url}health").json()["state"] == "ready"
        login = server.visitor.get("/config").json()
        assert login["root"].endswith(root.rstrip("/")) and not login["root"].endswith("/")
        assert httpx.get(f"{url}gradio_api/info").status_code == 401
        assert httpx.get(f"{url}gradio_api/info".replace(SUB_PATH, SUB_PATH * 2)).status_code in (401, 404)
