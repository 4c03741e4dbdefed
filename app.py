"""Wan VAE in the browser, on all ranks: frames appear as they are decoded.

    torchrun --nproc-per-node 2 --max-restarts 3 app.py

Starts one process per GPU, or a few on the CPU. Without torchrun there is one. Rank 0 serves the page and posts jobs;
the other ranks follow it. --help explains the options. launch.sh installs the environment and chooses the number of
processes.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import shutil
import signal
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

if __name__ == "__main__":
    # The imports below take seconds. Ctrl-C would print a traceback in each rank, where torchrun ends them all anyway.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from wanvae_app.assets import DEMO_VAE
from wanvae_app.cli import page_watch
from wanvae_app.cli.options import add_shared_options, check_auth, history_folder
from wanvae_app.cli.ports import check_port
from wanvae_app.cli.processes import (
    Ending,
    end_torchrun,
    end_with_parent,
    give_up,
    is_first_start,
    leave_reason,
    torchrun_logs,
)
from wanvae_app.cli.surroundings import LOOPBACK, mend_surroundings
from wanvae_app.cli.vae_sources import VaeSource, named
from wanvae_app.device import DEVICES
from wanvae_app.fast.agreement import agree, summary
from wanvae_app.jobs.vae_cache import VaeCache
from wanvae_app.jobs.vae_loading import open_vaes
from wanvae_app.parallel.process_group import Group, GroupLost
from wanvae_app.parallel.watchdog import EXIT_CODE

if TYPE_CHECKING:
    from wanvae_app.jobs.archive import Archive
    from wanvae_app.jobs.service import JobService

log = logging.getLogger("wanvae_app")


def main(argv: list[str] | None = None) -> None:
    """Run this rank until the app is stopped. Exits with a sentence if the VAE or a rank is missing."""
    faulthandler.enable()  # a crash inside a library prints where all threads are
    end_with_parent()
    try:
        options = parse(argv)
    except SystemExit as error:  # argparse has printed why
        if error.code:
            end_torchrun()
        raise
    rank = int(os.environ.get("RANK", 0))
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio requests its own page at the start
    warnings = mend_surroundings(options.host)  # of each rank: all of them may ask Hugging Face
    try:
        if rank == 0 and is_first_start():
            check_port(options.host, options.port)
        group = Group.join(options.device)
        agreed = agree(group, options.dtype)
        vaes = open_vaes(group, dict(named(options.vae)), agreed.dtype, agreed.path)
    except Exception as error:
        give_up(error)
    if group.rank == 0:
        notes = [note for name in vaes.names for note in vaes[name].notes]
        for warning in (*warnings, *agreed.warnings, *notes):
            log.warning("%s", warning)
        log.info("%s", summary(group, vaes.first))
        serve(group, vaes, options)
    else:
        follow_rank_0(group, vaes)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="app.py")
    add_shared_options(parser)
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default: GPUs if there are any")
    options = parser.parse_args(argv)
    options.vae = options.vae or [VaeSource("", str(DEMO_VAE))]
    check_auth(parser, options.auth)
    return options


def is_open(options: argparse.Namespace) -> bool:
    """Whether the page can be reached from other machines without a password."""
    return options.auth is None and (
        options.share or bool(options.allow_host) or options.host not in LOOPBACK
    )


def follow_rank_0(group: Group, vaes: VaeCache) -> None:
    """The other ranks: take part in the jobs that rank 0 posts. Exits for a restart if rank 0 is lost."""
    # Python's own handler would run only when the wait for the next job returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from wanvae_app.jobs.follower import follow

    try:
        follow(group, vaes)
    except GroupLost as error:
        leave_reason(group, str(error))
        os._exit(EXIT_CODE)  # destructors of broken groups may hang


def open_archive(max_bytes: int) -> Archive | None:
    """The runs of earlier starts; None if nothing is to be kept, or cannot be, which is logged."""
    from wanvae_app.jobs.archive import Archive

    if not max_bytes:
        return None
    try:
        return Archive(history_folder(), max_bytes)
    except OSError as error:
        log.warning("no history is kept: %s", error)
        return None


def serve(group: Group, vaes: VaeCache, options: argparse.Namespace) -> NoReturn:
    """Rank 0: serve the page until a signal or the loss of the other ranks ends this rank."""
    ending = Ending()
    try:
        jobs = start_page(group, vaes, options, ending)
    except Exception as error:  # a full disk, a port that is taken, no public address
        give_up(error, with_traceback=not is_first_start())
    from gradio.tunneling import CURRENT_TUNNELS

    ending.wait()
    restart = ending.is_restart(group)
    if restart:
        leave_reason(group, jobs.broken or "a rank died")
    else:
        shutil.rmtree(jobs.folder, ignore_errors=True)
    for tunnel in CURRENT_TUNNELS:  # with --share, a process of Gradio's
        tunnel.kill()  # type: ignore[no-untyped-call]
    # Exit without waiting: viewers' streams never end, and the other ranks may be in any state.
    os._exit(EXIT_CODE if restart else 0)


def start_page(group: Group, vaes: VaeCache, options: argparse.Namespace, ending: Ending) -> JobService:
    """Start the jobs thread and the page's server; `ending` is told when this rank has to end."""
    from wanvae_app.jobs.private_folder import private_folder

    # The folder of finished runs is that of torchrun, which lives on when the ranks are restarted.
    owner = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    folder = private_folder(owner, keep=group.restarts > 0, logs=torchrun_logs())
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # otherwise Gradio calls home, even while it is imported
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")  # uploads are deleted with the folder
    from wanvae_app.jobs.service import JobService
    from wanvae_app.page.blocks import build_page, launch_arguments
    from wanvae_app.page.connections import limit_connections, raise_file_limit
    from wanvae_app.page.history import History
    from wanvae_app.page.hosts import AllowedHosts

    if is_open(options):
        log.warning("everybody who can reach the page can use it: --auth USER:PASSWORD asks for a password")
    raise_file_limit()
    jobs = JobService(group, vaes, folder)
    jobs.on_lost = ending.ranks_lost
    jobs.start()
    ending.listen()
    history = History(jobs, archive=open_archive(options.history))
    page = build_page(jobs, history)
    hosts = AllowedHosts(options.host, options.allow_host)
    page.queue(max_size=8).launch(
        prevent_thread_lock=True,
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        auth=tuple(options.auth.split(":", 1)) if options.auth else None,
        quiet=True,
        **launch_arguments(jobs, history, hosts),
    )
    limit_connections(page.server)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # without torchrun nobody would restart this rank
        page_watch.start(options.host, options.port)
    if page.share_url:
        hosts.allow(urlsplit(page.share_url).netloc)
    if jobs.notice:
        log.warning("%s", jobs.notice)
    print(f"Ready: {page.local_url}{f' and {page.share_url}' if page.share_url else ''}", flush=True)
    return jobs


if __name__ == "__main__":
    main()
