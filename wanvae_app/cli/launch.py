"""What launch.sh starts: checks the options, then becomes torchrun, one rank per GPU or a few on the CPU."""

from __future__ import annotations

import argparse
import os
import random
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CPU_RANKS = 2
MAX_RESTARTS = 100  # of the ranks, after one died; the page comes back by itself


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; exits with a sentence for what makes no sense whatever the machine."""
    parser = argparse.ArgumentParser(
        prog="./launch.sh",
        description="Decode Wan latents on all GPUs of this machine and watch the frames in the browser.",
        epilog="./launch.sh --test [PYTEST OPTIONS] runs the tests instead.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", type=int, metavar="N", help="use N GPUs (default: all there are)")
    where.add_argument(
        "--cpu", type=int, metavar="N", help=f"use N processes on the CPU (without GPUs: {CPU_RANKS})"
    )
    parser.add_argument("--port", type=int, default=7860, help="port of the page (default 7860)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    vae = "weights: a file, a diffusers folder or a Hugging Face id (default: the demo VAE)"
    parser.add_argument("--vae", metavar="SOURCE", help=vae)
    dtype = "auto (default: bf16 where the device is made for it), bf16, fp16, fp32 or fp64"
    parser.add_argument(
        "--dtype", default="auto", choices=["auto", "bf16", "fp16", "fp32", "fp64"], help=dtype
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
    if args.auth is not None and not all(args.auth.partition(":")):
        parser.error("--auth takes USER:PASSWORD, with a colon between them and neither empty")
    if not 0 <= args.node_rank < args.nnodes:
        parser.error(f"--node-rank {args.node_rank}: with --nnodes {args.nnodes} give 0 to {args.nnodes - 1}")
    if args.nnodes > 1 and not args.master_addr:
        parser.error("--nnodes needs --master-addr, the address of machine 0")
    return args


def num_processes(args: argparse.Namespace) -> tuple[str, int]:
    """Device and number of ranks on this machine; SystemExit if there are fewer GPUs than asked for."""
    import torch

    if args.cpu:
        return "cpu", args.cpu
    found = torch.cuda.device_count()
    if args.gpus is None:
        return ("cuda", found) if found else ("cpu", CPU_RANKS)
    if args.gpus > found:
        advice = f"give --gpus {found}" if found else "use --cpu N, or look at the driver with nvidia-smi"
        raise SystemExit(f"--gpus {args.gpus}: PyTorch finds {found} GPUs here; {advice}.")
    return "cuda", args.gpus


def main(argv: list[str] | None = None) -> None:
    """Check everything that can be checked before a rank starts, then become torchrun."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if args.check_only:
        return
    device, num_ranks = num_processes(args)
    if args.node_rank == 0:
        try:
            check_port(args.host, args.port)
        except ValueError as error:
            raise SystemExit(str(error)) from error
    if args.vae:
        from wanvae_app.formats.checkpoint import check

        path = Path(os.environ.get("WANVAE_CALLER", ""), Path(args.vae).expanduser())
        if path.exists():
            args.vae = str(path.absolute())  # launch.sh itself goes elsewhere
        try:
            check(args.vae)
        except ValueError as error:
            raise SystemExit(f"--vae: {error}") from error
    command = [sys.executable, "-m", "wanvae_app.cli.torchrun", "--nproc-per-node", str(num_ranks)]
    command += ["--max-restarts", str(MAX_RESTARTS), "--nnodes", str(args.nnodes)]
    if args.nnodes == 1:
        command += ["--master-addr", "127.0.0.1", "--master-port", str(args.master_port or free_port())]
    else:
        command += ["--node-rank", str(args.node_rank), "--master-addr", args.master_addr]
        command += ["--master-port", str(args.master_port or 29500)]
    command += [str(ROOT / "app.py"), "--device", device, "--host", args.host, "--port", str(args.port)]
    command += ["--dtype", args.dtype, *(["--vae", args.vae] if args.vae else [])]
    command += ["--share"] if args.share else []
    if args.auth:
        os.environ["WANVAE_AUTH"] = (
            args.auth
        )  # not on a command line, which everybody on this machine can read
    # Ranks that share a machine share its cores; torchrun would give each just one, and say so at length.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_ranks)))
    what = (
        f"{num_ranks} GPU{'s' * (num_ranks > 1)}" if device == "cuda" else f"{num_ranks} processes on the CPU"
    )
    print(f"Starting on {what}...", flush=True)
    os.execv(sys.executable, command)


def check_port(host: str, port: int) -> None:
    """Raises ValueError if nobody can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"--host {host} --port {port}: cannot listen there ({reason}); try another."
            ) from error


def free_port() -> int:
    """A port of this machine that is free just now, and below those (from 32768) that connections are given of
    themselves: not even this app's own will take it before it is used."""
    for port in random.sample(range(10000, 32768), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("none of a thousand ports from 10000 to 32767 is free")


if __name__ == "__main__":
    main()
