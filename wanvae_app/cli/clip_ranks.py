"""What each rank of `decode` and `encode` does: rank 0 says what is next, and all code it.

Clips are coded by all ranks together, or by each rank alone while the others code others; see clip_shares.py.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

from wanvae_app.api.loaded_vae import LoadedVae, load_vae
from wanvae_app.api.ranks import Ranks
from wanvae_app.assets import DEMO_VAE
from wanvae_app.cli.clip_coder import ClipCoder, sentence
from wanvae_app.cli.clip_events import EventReader, EventSender
from wanvae_app.cli.clip_files import ClipFile
from wanvae_app.cli.clip_launch import is_wanted, plan_files
from wanvae_app.cli.clip_options import parse_clip_options
from wanvae_app.cli.clip_report import ClipReport, Outcome
from wanvae_app.cli.clip_shares import share_out
from wanvae_app.cli.interrupts import tell_on_signals
from wanvae_app.cli.processes import FIRST_RANK_REPORTS, end_with_parent
from wanvae_app.errors import plural
from wanvae_app.jobs.private_folder import private_folder
from wanvae_app.parallel.process_group import Group, GroupLost

TORCHRUN_NOTICES = 3.0  # seconds for torchrun to end this rank because another one has died
EXIT_CODE = 1


class LoneGroup(Group):
    """A rank that codes clips alone, under the eyes of its group's watchdog. The group's job goes on meanwhile."""

    def __init__(self, group: Group) -> None:
        super().__init__(0, 1, group.device)
        self.watchdog = group.watchdog

    def begin_job(self) -> None:
        """Do nothing: the group has begun it."""

    def end_job(self) -> None:
        """Do nothing: the group will end it."""


def run_rank(argv: list[str]) -> int:
    """Run this rank to the end of the work; return the exit code. Ends the process if it cannot go on."""
    end_with_parent()
    command, *arguments = argv
    options = parse_clip_options(command, arguments, command)
    rank = int(os.environ.get("RANK", 0))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("wanvae_app.api.ranked_clip").setLevel(logging.ERROR)  # what it warns of is reported
    warnings.filterwarnings("ignore", "The latent is decoded as")
    if rank > 0:
        return _run(None, [], options)
    files = plan_files(options)
    report = ClipReport(files, options.json)
    unfinished: list[Path] = []

    def interrupted(why: str) -> None:
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)
        report.interrupt(why)

    tell_on_signals(interrupted)
    owner = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    try:
        unfinished.append(private_folder(owner, keep=False, home=options.out))
    except OSError as error:
        _give_up(error)
    try:
        return _run(report, files, options, unfinished[0])
    finally:
        shutil.rmtree(unfinished[0], ignore_errors=True)


def _run(
    report: ClipReport | None, files: list[ClipFile], options: argparse.Namespace, folder: Path = Path()
) -> int:
    """Load the VAE, and code; `report` and `files` are rank 0's."""
    try:
        vae = load_vae(options.vae.source if options.vae else DEMO_VAE, options.dtype, options.device)
        folder = Path(vae.group.share(str(folder) if report is not None else "")[0])
        if report is None:
            _follow(vae, options, folder)
            return 0
        for index, file in enumerate(files):
            if not is_wanted(file, options):
                report.end(Outcome(index, "exists"))
        report.say(f"{plural(len(report.missing()), 'file')} to {options.command} with {vae}.")
        _lead(vae, files, options, folder, report)
        return report.close()
    except GroupLost as error:
        time.sleep(TORCHRUN_NOTICES)  # it says which rank was killed, and by what
        _give_up(error)
    except Exception as error:
        _give_up(error)


def _lead(
    vae: LoadedVae, files: list[ClipFile], options: argparse.Namespace, folder: Path, report: ClipReport
) -> None:
    """Rank 0: code all files of which no outcome is known."""
    group, wanted = vae.group, report.missing()
    sizes = [files[index].num_bytes for index in wanted]
    shares = share_out(sizes, group.size, each=options.each, together=options.together)
    together = ClipCoder(vae, options, folder, report, before=lambda: _command(group, {"do": "together"}))
    by_index = dict(enumerate(files))
    together.code_all(by_index, [wanted[place] for place in shares.together])
    if any(shares.alone):
        parts = [
            [(index, *map(str, files[index][:2])) for index in (wanted[place] for place in share)]
            for share in shares.alone
        ]
        reader = EventReader(group, report)
        _command(group, {"do": "alone", "shares": parts})
        _code_alone(vae, options, folder, parts[0])
        reader.join()
        together.code_all(by_index, report.missing())  # what is too large for one rank
    _command(group, {"do": "end"})


def _follow(vae: LoadedVae, options: argparse.Namespace, folder: Path) -> None:
    """The other ranks: do what rank 0 says."""
    group = vae.group
    while (command := _next_command(group))["do"] != "end":
        if command["do"] == "alone":
            _code_alone(vae, options, folder, command["shares"][group.rank])
            continue
        stream = (vae.decode_stream if options.command == "decode" else vae.encode_stream)(
            None, scaling="raw"
        )
        try:
            for _ in stream:
                raise AssertionError("only rank 0 gets results")
        except GroupLost:
            raise
        except (ValueError, MemoryError, RuntimeError):
            continue  # rank 0 reports it


def _code_alone(vae: LoadedVae, options: argparse.Namespace, folder: Path, share: list[Any]) -> None:
    """All ranks: code a share of the files without the others, and wait for them."""
    group = vae.group
    files = {index: ClipFile(Path(source), Path(result), 0) for index, source, result in share}
    sender = EventSender(group)
    group.begin_job()
    try:
        lone = LoadedVae(vae.model, Ranks(LoneGroup(group)))
        ClipCoder(lone, options, folder, sender, is_alone=True).code_all(files, list(files))
        sender.finish()
        group.agree([0.0])
    finally:
        group.end_job()


def _command(group: Group, command: dict[str, Any]) -> None:
    """Rank 0: tell the others what to do next."""
    group.post(command)
    group.agree([0.0])


def _next_command(group: Group) -> dict[str, Any]:
    command = group.next_command()
    group.agree([0.0])
    return command


def _give_up(error: Exception) -> NoReturn:
    """Print in a sentence why this rank ends, and end it; torchrun ends the others."""
    rank = int(os.environ.get("RANK", 0))
    if rank and isinstance(error, ValueError):  # the user's fault, which rank 0 finds as well
        time.sleep(FIRST_RANK_REPORTS)
    print(
        sentence(error) if isinstance(error, ValueError) else f"Rank {rank}: {sentence(error)}",
        file=sys.stderr,
    )
    sys.stderr.flush()
    os._exit(EXIT_CODE)
