"""Where the files are that come with the program."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DEMO_VAE = ASSETS / "demo_vae"
SAMPLES = ASSETS / "samples"
PAGE = ASSETS / "page"
