"""Wan VAE in the browser, on all ranks: frames appear as they are decoded.

    torchrun --nproc-per-node 2 --max-restarts 3 app.py

One process per GPU, or a few on the CPU; without torchrun, one. Rank 0 serves the page, the others follow it.
--help explains the options; launch.sh makes the environment and chooses the number of processes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from wanvae_app.assets import DEMO_VAE
from wanvae_app.cli.launch import check_port
from wanvae_app.device import DEVICES, DTYPES, choose_dtype
from wanvae_app.errors import describe
from wanvae_app.formats.checkpoint import load_vae
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group, GroupLost
from wanvae_app.parallel.watchdog import EXIT_CODE

SPEAKING = 10.0  # seconds that rank 0 has to say what all ranks have found
LOOPBACK = ("127.0.0.1", "localhost", "::1")

log = logging.getLogger("wanvae_app")


def main(argv: list[str] | None = None) -> None:
    """Run this rank until the app is stopped. Exits with a sentence if the VAE or the ranks cannot be had."""
    end_with_parent()
    try:
        options = parse(argv)
    except SystemExit as error:  # argparse has said why
        if error.code:
            end_torchrun()
        raise
    rank = int(os.environ.get("RANK", 0))
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is up
    try:
        if rank == 0 and is_first_start():
            check_port(options.host, options.port)
        group = Group.join(options.device)
        vae = load_vae(options.vae, choose_dtype(options.dtype, group.device), group.device)
        group.agree([0.0])  # every rank has loaded it
    except Exception as error:
        give_up(error)
    if group.rank == 0:
        serve(group, vae, options)
        return
    # Python's own handlers would only run after the wait for a command.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from wanvae_app.jobs.follower import follow

    try:
        follow(group, vae)
    except GroupLost as error:
        say_why(group, str(error))
        os._exit(EXIT_CODE)  # destructors of broken groups may hang


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="app.py")
    parser.add_argument(
        "--vae",
        default=str(DEMO_VAE),
        metavar="SOURCE",
        help="weights: a file, a diffusers folder or a Hugging Face id (default: the demo VAE)",
    )
    parser.add_argument(
        "--dtype", default="auto", choices=["auto", *DTYPES], help="default: what suits the device"
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default: GPUs if there are any")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument("--share", action="store_true", help="also a public address, by Gradio's servers")
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        default=os.environ.get("WANVAE_AUTH") or None,
        help="ask for these before anything is shown (default: what WANVAE_AUTH in the environment says)",
    )
    options = parser.parse_args(argv)
    if options.auth is not None and not all(options.auth.partition(":")):
        parser.error("--auth takes USER:PASSWORD, with a colon between them and neither empty")
    return options


def is_open(options: argparse.Namespace) -> bool:
    """Whether others than this machine's users get in without a password."""
    return options.auth is None and (options.share or options.host not in LOOPBACK)


def serve(group: Group, vae: WanVAE, options: argparse.Namespace) -> None:
    """Rank 0: show the page until SIGTERM or Ctrl-C, or until the other ranks are lost."""
    from wanvae_app.jobs.private_folder import private_folder

    # Named after torchrun, which outlives a restart of the ranks, so that finished runs do, too.
    owner = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    folder = private_folder(owner, keep=group.restarts > 0)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # else Gradio calls home, from its import on
    os.environ.setdefault("GRADIO_TEMP_DIR", str(folder / "uploads"))  # so they go when everything goes
    from gradio.tunneling import CURRENT_TUNNELS

    from wanvae_app.jobs.service import JobService
    from wanvae_app.page.blocks import build_page, launch_arguments
    from wanvae_app.page.history import History

    if is_open(options):
        log.warning("everybody who can reach the page can use it: --auth USER:PASSWORD asks for a password")
    jobs = JobService(group, vae, folder)
    ending, why = threading.Event(), [0]

    def end(number: int, *_: object) -> None:
        why[0] = number
        ending.set()

    def lost() -> None:
        if not ending.wait(1):  # for the pages to hear of it
            end(0)

    jobs.on_lost = lost
    jobs.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    history = History(jobs)
    page = build_page(jobs, history)
    try:
        page.queue(max_size=8).launch(
            prevent_thread_lock=True,
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            auth=tuple(options.auth.split(":", 1)) if options.auth else None,
            quiet=True,
            **launch_arguments(jobs, history),
        )
    except Exception as error:  # the port was taken meanwhile, Gradio's servers give no public address
        give_up(error)
    if jobs.notice:
        log.warning("%s", jobs.notice)
    print(f"Ready: {page.local_url}{f' and {page.share_url}' if page.share_url else ''}", flush=True)
    ending.wait()
    restart = why[0] == 0 or (why[0] == signal.SIGTERM and has_lost_a_rank(group))
    if restart:
        say_why(group, jobs.broken or "a rank died")
    else:
        shutil.rmtree(jobs.folder, ignore_errors=True)
    for tunnel in CURRENT_TUNNELS:  # a process of Gradio's, with --share
        tunnel.kill()
    # The ranks may be anywhere, and viewers' streams are endless: nothing can be waited for.
    os._exit(EXIT_CODE if restart else 0)


def has_lost_a_rank(group: Group) -> bool:
    """Whether SIGTERM means that torchrun is about to restart the ranks, because one has died: it reaps that
    one before, while the ranks that it stops together with this one are reaped later."""
    try:
        return group.watchdog is not None and bool(group.watchdog.dead(reaped=True))
    except RuntimeError:  # torchrun itself is gone
        return False


def say_why(group: Group, reason: str) -> None:
    """Leave word for the ranks' successors."""
    try:
        if group.watchdog is not None:
            group.watchdog.last_words(reason)
    except RuntimeError as error:  # the store is gone as well
        log.error("%s; %s", reason, error)


def end_with_parent() -> None:
    """Linux: get SIGTERM when torchrun dies, however it dies, so that no rank is left behind."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def give_up(error: Exception) -> NoReturn:
    """Say in a sentence why this rank cannot start, and exit."""
    rank = os.environ.get("RANK", "0")
    user_fault = isinstance(error, ValueError)
    if user_fault and os.environ.get("LOCAL_RANK", "0") != "0":
        # All ranks find the same fault in what the user gave, and one of them saying so is enough. It ends them
        # all; to leave before would make torchrun restart them, with nothing said.
        time.sleep(SPEAKING)
    if not isinstance(error, (ValueError, OSError)):
        log.error("rank %s", rank, exc_info=error)
    print(
        f"Rank {rank} cannot start: {error if user_fault else describe(error)}", file=sys.stderr, flush=True
    )
    # What fails at the first start will fail again; after a restart, the dead ranks may still be in the way.
    if user_fault or is_first_start():
        end_torchrun()
    os._exit(1)


def is_first_start() -> bool:
    """Whether torchrun has not restarted the ranks yet."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"


def end_torchrun() -> None:
    """Kill it, before it tries the same a hundred times and buries the reason; the other ranks end with it."""
    # Several ranks may do this at once: one that the others ended first would leave torchrun alive to restart it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = Path(f"/proc/{os.getppid()}")
    try:
        command = (parent / "cmdline").read_bytes()
        started = " ".join(
            file.read_text() for file in parent.glob("task/*/children")
        )  # whichever thread did it
    except OSError:
        return  # no Linux
    if b"torchrun" not in command and b"torch.distributed" not in command:
        return  # it is dead already, and this is whoever took its children over
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(parent.name), signal.SIGKILL)  # first: it must not see a rank end
    for pid in map(int, started.split()):
        if pid != os.getpid():  # a rank that is still importing has not asked to end with torchrun
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    main()
