"""The options that app.py and the launcher share. Needs nothing installed but Python."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from wanvae_app.cli.vae_sources import parse_vae
from wanvae_app.config import DTYPE_NAMES

# A name, an IPv4 address, or an IPv6 address in brackets; perhaps a port.
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", re.ASCII)
# A number, perhaps with a unit.
SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([kmgt]?b)?", re.ASCII)
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
MAX_SIZE = 2**62
HISTORY_BYTES = 20 * 10**9


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """Add --port, --host, --allow-host, --vae, --dtype, --share, --auth and --history.

    The value of --vae is a list of VaeSource, None without the option. That of --history is in bytes, 0 for none.
    """
    parser.add_argument("--port", type=int, default=7860, help="port of the page (default 7860)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        type=_host,
        action="append",
        default=[],
        help="a name, or NAME:PORT, under which a proxy or your network shows the page; may be repeated",
    )
    parser.add_argument(
        "--vae",
        metavar="SOURCE",
        type=parse_vae,
        action="append",
        help="weights: a file, a diffusers folder or a Hugging Face id, also as ID:PATH (default: the demo VAE); "
        "FILE:PART is one of several VAEs in a file; may be repeated, and as NAME=SOURCE it has that name on the page",
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
    parser.add_argument(
        "--history",
        metavar="SIZE",
        type=parse_size,
        default=HISTORY_BYTES,
        help="keep finished runs, such as 50GB of them (default 20GB), or none; the oldest go first",
    )


def check_auth(parser: argparse.ArgumentParser, auth: str | None) -> None:
    """Exit with a sentence unless --auth is absent or USER:PASSWORD."""
    if auth is not None and not all(auth.partition(":")):
        parser.error("--auth takes USER:PASSWORD, with a colon between them and neither empty")


def parse_size(text: str) -> int:
    """Return the bytes that a text such as "20GB", "500 MB" or "none" means; "none" is 0."""
    if text.strip().lower() == "none":
        return 0
    found = SIZE.fullmatch(text.strip().lower())
    num_bytes = int(float(found[1]) * UNITS[found[2] or ""]) if found else 0
    if not 0 < num_bytes < MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no size: give for instance 20GB, or none")
    return num_bytes


def history_folder() -> Path:
    """The folder of the history, in the user's cache folder, whether or not it is there. Raises OSError without one."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    except RuntimeError as error:  # a user without a home
        raise OSError("this user has no home folder") from error
    return home / "wanvae" / "history"


def split_authority(text: str) -> tuple[str, int | None]:
    """Split "name:port" into the name, and the port if there is one.

    The name is in lower case, without the brackets of an IPv6 address and without a final dot. Raises ValueError for
    anything else, such as an address with a path.
    """
    found = AUTHORITY.fullmatch(text)
    name = found[1].strip("[]").lower().removesuffix(".") if found else ""
    port = int(found[2]) if found and found[2] else None
    if not name or (port is not None and not 1 <= port <= 65535):
        raise ValueError(f"{text[:80]!r} is not the name of a host: give for instance box.example.org")
    return name, port


def _host(text: str) -> str:
    try:
        split_authority(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
