"""The options that app.py and the launcher share. Needs nothing installed but Python."""

from __future__ import annotations

import argparse
import os

from wanvae_app.config import DTYPE_NAMES


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """Add --port, --host, --vae, --dtype, --share and --auth. Without --vae its value is None."""
    parser.add_argument("--port", type=int, default=7860, help="port of the page (default 7860)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument(
        "--vae",
        metavar="SOURCE",
        help="weights: a file, a diffusers folder or a Hugging Face id (default: the demo VAE)",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", *DTYPE_NAMES],
        help="auto (default: bf16 where the device is made for it), bf16, fp16, fp32 or fp64",
    )
    parser.add_argument(
        "--share", action="store_true", help="also make a public address, through Gradio's servers"
    )
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        default=os.environ.get("WANVAE_AUTH") or None,
        help="ask for these before anything is shown (default: what WANVAE_AUTH in the environment says)",
    )


def check_auth(parser: argparse.ArgumentParser, auth: str | None) -> None:
    """Exit with a sentence unless --auth is absent or USER:PASSWORD."""
    if auth is not None and not all(auth.partition(":")):
        parser.error("--auth takes USER:PASSWORD, with a colon between them and neither empty")
