"""One app on two ranks and one browser for all tests of the page: starting them takes longer than the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if (
    not torch.cuda.is_available()
):  # before anything imports Triton's kernels: without a GPU they are interpreted
    os.environ["TRITON_INTERPRET"] = "1"

if TYPE_CHECKING:  # the page's tests alone need a browser
    from playwright.sync_api import Browser
    from support.browser import Rigged, Visitor

RIGGED_APP = Path(__file__).with_name("support") / "rigged_app.py"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from support.browser import running_browser

    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rigged]:
    from support.app_runner import running_app
    from support.browser import Rigged

    rig = tmp_path_factory.mktemp("rig")
    with running_app(rig.with_suffix(".log"), script=RIGGED_APP, environment={"RIG": str(rig)}) as app:
        yield Rigged(app, rig)


@pytest.fixture
def rigged(started: Rigged) -> Iterator[Rigged]:
    """The app, with nothing held and nothing running before and after each test."""
    yield started
    started.reset()


@pytest.fixture
def visitor(rigged: Rigged, browser: Browser) -> Iterator[Visitor]:
    from support.browser import Visitor

    visitor = Visitor(browser, rigged.url)
    yield visitor
    visitor.close()
