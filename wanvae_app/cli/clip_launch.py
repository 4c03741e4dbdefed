"""`decode` and `encode`: checks the options and the files, then becomes the ranks that code them.

    python -m wanvae_app.cli.clip_launch decode latents/ --out videos/

--help and --check-only run before anything is installed, so this module imports torch only where it needs it.
"""

from __future__ import annotations

import argparse
import errno
import os
import secrets
import sys
from pathlib import Path

from wanvae_app.cli.clip_files import ClipFile, find_files, name_results
from wanvae_app.cli.clip_options import CLIP_COMMANDS, parse_clip_options
from wanvae_app.cli.interrupts import end_on_interrupt
from wanvae_app.cli.launch import LAUNCH_SH, RENDEZVOUS, SECRET, Placement, find_weights, place_ranks
from wanvae_app.cli.surroundings import mend_surroundings

USAGE = 2  # exit code
RANKS = "wanvae_app.cli.clip_start"  # the module that each rank runs


def main(command: str, argv: list[str], prog: str) -> None:
    """Check everything that can be checked before a rank starts, then become the ranks.

    Exits with code 0 if there is nothing left to do, with USAGE and a sentence for what cannot work.
    """
    options = parse_clip_options(command, argv, prog)
    if options.check_only:
        return
    caller = Path(os.environ.get("WANVAE_CALLER", ""))
    options.out = (caller / options.out.expanduser()).absolute()
    options.inputs = [str(caller / Path(text).expanduser()) for text in options.inputs]
    try:
        files = plan_files(options)
        options.out.mkdir(parents=True, exist_ok=True)
        if not os.access(options.out, os.W_OK):
            raise ValueError(f"--out {options.out}: this user may not write there.")
        if not any(is_wanted(file, options) for file in files):
            from wanvae_app.cli.clip_report import report_existing

            report_existing(files, options.json)
            return
        for warning in mend_surroundings("localhost"):
            print(f"{warning}.", file=sys.stderr)
        placement = place_ranks(options)
        if options.vae:
            (options.vae,) = find_weights([options.vae])
    except OSError as error:
        raise refusal(f"--out {options.out}: no folder can be made there ({error.strerror}).") from error
    except ValueError as error:
        raise refusal(str(error)) from error
    from wanvae_app.device import num_cores

    os.environ.setdefault(SECRET, secrets.token_urlsafe(32))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // placement.num_ranks)))
    try:
        os.execv(sys.executable, ranks_command(options, placement))
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        raise refusal("These are too many inputs: give their folder, or a pattern in quotes.") from error


def plan_files(options: argparse.Namespace) -> list[ClipFile]:
    """Find the inputs, and name the results. Raises ValueError, with a sentence, for an input that means no file."""
    facts = CLIP_COMMANDS[options.command]
    found = find_files(options.inputs, facts.suffixes, options.out)
    return name_results(found, options.out, facts.formats[options.format].suffix)


def is_wanted(file: ClipFile, options: argparse.Namespace) -> bool:
    """Whether a result is to be made: it is not there, or it is to be replaced."""
    return bool(options.overwrite) or not file.result.exists()


def refusal(sentence: str) -> SystemExit:
    """Print a sentence about the options; return the exception that ends this process."""
    print(sentence, file=sys.stderr)
    return SystemExit(USAGE)


def ranks_command(options: argparse.Namespace, placement: Placement) -> list[str]:
    """The command line that starts the ranks: torchrun without restarts, or Python if there is one rank."""
    command = [sys.executable, "-m"]
    if placement.num_ranks > 1:
        command += ["wanvae_app.cli.torchrun", "--nproc-per-node", str(placement.num_ranks)]
        command += ["--max-restarts", "0", "--nnodes", "1", "--rdzv-backend", RENDEZVOUS]
        command += ["--rdzv-endpoint", "127.0.0.1:0", "--rdzv-conf", "rank=0", "-m"]
    command += [RANKS, options.command, "--device", placement.device, "--out", str(options.out)]
    command += ["--format", options.format, "--dtype", options.dtype, "--scaling", options.scaling]
    for name in ("chunk", "fps"):
        if (value := getattr(options, name, None)) is not None:
            command += [f"--{name}", str(value)]
    for name in ("each", "together", "overwrite", "json"):
        command += [f"--{name}"] if getattr(options, name) else []
    command += ["--vae", options.vae.option] if options.vae else []
    return [*command, "--", *options.inputs]


if __name__ == "__main__":
    end_on_interrupt()
    name, *arguments = sys.argv[1:]
    main(name, arguments, f"{LAUNCH_SH} {name}")
