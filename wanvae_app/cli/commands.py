"""The command `wanvae` of an installed package: one subcommand for each of what it can do.

    wanvae serve --gpus 2

Needs nothing but Python until a subcommand does its work, so that --help answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from wanvae_app import __version__
from wanvae_app.cli import clip_launch, launch
from wanvae_app.cli.clip_options import CLIP_COMMANDS
from wanvae_app.cli.interrupts import end_on_interrupt

PROG = "wanvae"


class Command(NamedTuple):
    """A subcommand."""

    summary: str
    run: Callable[[list[str], str], None]  # takes its arguments, and what the user called


COMMANDS = {
    "serve": Command("serve the page, on all GPUs of this machine", launch.main),
    **{
        name: Command(facts.summary, partial(clip_launch.main, name)) for name, facts in CLIP_COMMANDS.items()
    },
}


def usage() -> str:
    """Return what --help prints."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROG} COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            f"{PROG} COMMAND --help explains its options, and {PROG} --version says which version this is.",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Run a subcommand. Exits with a sentence and code 2 if it is unknown."""
    end_on_interrupt()
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"{PROG} {__version__}")
    elif name in COMMANDS:
        COMMANDS[name].run(arguments, f"{PROG} {name}")
    else:
        print(f"{PROG}: {name[:80]!r} is no command; choose {', '.join(COMMANDS)}.", file=sys.stderr)
        raise SystemExit(2)
