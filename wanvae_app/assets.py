"""Where the files are that come with the program: in a checkout's assets folder, or in the installed package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = PACKAGE / "data"  # pyproject.toml has the assets copied there
ASSETS = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "assets"
APP = (
    PACKAGE / "start" / "app.py" if INSTALLED.is_dir() else PACKAGE.parent / "app.py"
)  # what torchrun starts
DEMO_VAE = ASSETS / "demo_vae"
SAMPLES = ASSETS / "samples"
PAGE = ASSETS / "page"
