"""What launch.sh starts: checks the options, then becomes torchrun with one rank per GPU, or a few on the CPU.

    python -m wanvae_app.cli.launch --gpus 2

--help and --check-only run before anything is installed, so this module imports torch only where it needs it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path
from typing import NamedTuple

from wanvae_app.assets import APP
from wanvae_app.cli.interrupts import end_on_interrupt
from wanvae_app.cli.options import add_shared_options, check_auth
from wanvae_app.cli.ports import check_port
from wanvae_app.cli.surroundings import mend_surroundings
from wanvae_app.cli.vae_sources import VaeSource, named
from wanvae_app.errors import plural

LAUNCH_SH = "./launch.sh"
CPU_RANKS = 2
SECRET = "WANVAE_SECRET"  # environment variable: the key by which ranks know rank 0's commands
RENDEZVOUS = "wanvae"  # how torchrun's ranks meet: see elastic.py
MAX_RESTARTS = 100  # of all ranks together, each time after one has died


class Placement(NamedTuple):
    """Where the ranks of this machine run."""

    device: str  # "cuda" or "cpu"
    num_ranks: int


def parse(argv: list[str], prog: str = LAUNCH_SH) -> argparse.Namespace:
    """Parse the command line. Exits with a sentence for options that cannot work on any machine.

    `prog` is what the user called.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Decode Wan latents on all GPUs of this machine and watch the frames in the browser.",
        epilog="./launch.sh decode --help and encode --help: files instead of a page. ./launch.sh --test [PYTEST "
        "OPTIONS] runs the tests."
        if prog == LAUNCH_SH
        else None,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", type=int, metavar="N", help="use N GPUs (default: all there are)")
    where.add_argument(
        "--cpu", type=int, metavar="N", help=f"use N processes on the CPU (without GPUs: {CPU_RANKS})"
    )
    add_shared_options(parser)
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="number of machines (default 1)")
    parser.add_argument(
        "--node-rank", type=int, default=0, metavar="R", help="which of them this is; 0 has the page"
    )
    parser.add_argument("--master-addr", metavar="HOST", help="address of machine 0, for several machines")
    port = "a port of machine 0 that the others reach (default 29500)"
    parser.add_argument("--master-port", type=int, metavar="PORT", help=port)
    parser.add_argument("--check-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("gpus", "cpu", "nnodes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: give 1 or more")
    for name in ("port", "master_port"):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= 65535:
            parser.error(f"--{name.replace('_', '-')} {value}: a port is a number from 1 to 65535")
    check_auth(parser, args.auth)
    if not 0 <= args.node_rank < args.nnodes:
        parser.error(f"--node-rank {args.node_rank}: with --nnodes {args.nnodes} give 0 to {args.nnodes - 1}")
    if args.nnodes > 1 and not args.master_addr:
        parser.error("--nnodes needs --master-addr, the address of machine 0")
    return args


def place_ranks(args: argparse.Namespace) -> Placement:
    """Where the ranks of this machine run. Raises ValueError if there are fewer GPUs than asked for."""
    import torch

    if args.cpu:
        return Placement("cpu", args.cpu)
    found = torch.cuda.device_count()
    if args.gpus is None:
        return Placement("cuda", found) if found else Placement("cpu", CPU_RANKS)
    if args.gpus > found:
        advice = f"give --gpus {found}" if found else "use --cpu N, or look at the driver with nvidia-smi"
        raise ValueError(f"--gpus {args.gpus}: PyTorch finds {plural(found, 'GPU')} here; {advice}.")
    return Placement("cuda", args.gpus)


def find_weights(vaes: list[VaeSource]) -> list[VaeSource]:
    """The sources as the ranks can read them: a path becomes absolute.

    Raises ValueError if one holds no VAE, or if two have one name. launch.sh changes the working directory, so paths
    are relative to WANVAE_CALLER, its caller's.
    """
    from wanvae_app.formats.checkpoint import check

    found = []
    for vae in vaes:
        vae = _relative_to_caller(vae)
        try:
            check(vae.source)
        except ValueError as error:
            raise ValueError(f"--vae: {error}") from error
        found.append(vae)
    named(found)
    return found


def _relative_to_caller(vae: VaeSource) -> VaeSource:
    """The VAE with an absolute path if it has a path that exists, perhaps with :PART."""
    caller = Path(os.environ.get("WANVAE_CALLER", ""))
    for name, source in (("", vae.option), vae):  # NAME=SOURCE may be the path of a file as a whole
        file, colon, part = source.rpartition(":")
        for text, rest in ((source, ""), (file, colon + part)):
            path = caller / Path(text).expanduser()
            if text and path.exists():
                return VaeSource(name, f"{path.absolute()}{rest}")
    return vae


def torchrun_command(args: argparse.Namespace, placement: Placement) -> list[str]:
    """The command line of torchrun that starts app.py on these ranks, without the password."""
    command = [sys.executable, "-m", "wanvae_app.cli.torchrun", "--nproc-per-node", str(placement.num_ranks)]
    command += ["--max-restarts", str(MAX_RESTARTS), "--nnodes", str(args.nnodes)]
    # On one machine nobody else needs to reach the store, and the system chooses its port.
    host, port = (args.master_addr, 29500) if args.nnodes > 1 else ("127.0.0.1", 0)
    command += ["--rdzv-backend", RENDEZVOUS, "--rdzv-endpoint", f"{host}:{args.master_port or port}"]
    command += ["--rdzv-conf", f"rank={args.node_rank}"]
    command += [str(APP), "--device", placement.device, "--host", args.host, "--port", str(args.port)]
    command += ["--history", str(args.history) if args.history else "none"]
    command += ["--dtype", args.dtype]
    for vae in args.vae or ():
        command += ["--vae", vae.option]
    command += ["--share"] if args.share else []
    for name in args.allow_host:
        command += ["--allow-host", name]
    return command


def main(argv: list[str] | None = None, prog: str = LAUNCH_SH) -> None:
    """Check everything that can be checked before a rank starts, then become torchrun."""
    args = parse(sys.argv[1:] if argv is None else argv, prog)
    if args.check_only:
        return
    for warning in mend_surroundings(args.host):
        print(f"{warning}.", file=sys.stderr)
    try:
        placement = place_ranks(args)
        if args.node_rank == 0:  # it serves the page
            check_port(args.host, args.port)
        if args.vae:
            args.vae = find_weights(args.vae)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    command = torchrun_command(args, placement)
    from wanvae_app.device import num_cores

    if args.auth:  # in the environment, because every user of this machine can read command lines
        os.environ["WANVAE_AUTH"] = args.auth
    if args.nnodes == 1:
        os.environ.setdefault(SECRET, secrets.token_urlsafe(32))
    elif not os.environ.get(SECRET):
        print(
            f"Whoever reaches {args.master_addr} can give the ranks commands: set {SECRET} to the same text on every "
            "machine, and use a private network.",
            file=sys.stderr,
        )
    # The ranks share this machine's cores. torchrun would give each rank one thread, with a long warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // placement.num_ranks)))
    plural = "s" * (placement.num_ranks > 1)
    kind = f"GPU{plural}" if placement.device == "cuda" else f"process{plural and 'es'} on the CPU"
    print(f"Starting on {placement.num_ranks} {kind}...", flush=True)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    end_on_interrupt()
    main()
