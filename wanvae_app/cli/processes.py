"""A rank's life as a process under torchrun: why rank 0 ends, what the next ranks are told, how all end together."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

from wanvae_app.errors import describe
from wanvae_app.parallel.proc_stat import children_of, read_command
from wanvae_app.parallel.process_group import Group

FIRST_RANK_REPORTS = 10.0  # seconds that local rank 0 has to report a fault that all ranks find
PAGES_HEAR = 1.0  # seconds for open pages to hear that the ranks are lost
PR_SET_PDEATHSIG = 1  # prctl(2)
PARENT_INTERVAL = 1.0  # seconds between two looks at whether torchrun lives, where the system sends no signal

log = logging.getLogger("wanvae_app")


class Ending:
    """What rank 0's main thread waits for: SIGTERM, Ctrl-C, a closed terminal, or the loss of the other ranks."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._signal: int | None = None  # the last one received

    def listen(self) -> None:
        """Wait for signals that end the app from now on. Only the main thread may call this.

        A SIGHUP that nohup has made ignored stays ignored.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def ranks_lost(self) -> None:
        """The other ranks are gone: end soon, once open pages have heard of it. Any thread may call this."""
        self._event.wait(PAGES_HEAR)
        self._event.set()

    def wait(self) -> None:
        """Block until this rank has to end."""
        self._event.wait()

    def is_restart(self, group: Group) -> bool:
        """Whether torchrun is to start, or is about to start, all ranks again."""
        return self._signal is None or (self._signal == signal.SIGTERM and has_lost_a_rank(group))

    def _on_signal(self, number: int, *_: object) -> None:
        self._signal = number
        self._event.set()


def has_lost_a_rank(group: Group) -> bool:
    """Whether torchrun sends SIGTERM because a rank has died, and is about to restart all ranks.

    torchrun reaps a rank that died before it stops the others. It reaps those later.
    """
    try:
        return group.watchdog is not None and bool(group.watchdog.dead_ranks(reaped=True))
    except RuntimeError:  # torchrun itself is gone
        return False


def leave_reason(group: Group, reason: str) -> None:
    """Tell the next ranks why these are restarted."""
    try:
        if group.watchdog is not None:
            group.watchdog.leave_last_words(reason)
    except RuntimeError as error:  # the store is gone as well
        log.error("%s; %s", reason, error)


def is_first_start() -> bool:
    """Whether torchrun has not restarted the ranks yet."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"


def end_with_parent() -> None:
    """Receive SIGTERM when torchrun dies, so that no rank outlives it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()


def _follow_parent(parent: int) -> None:
    """Send this process SIGTERM once its parent has ended."""
    while os.getppid() == parent:
        time.sleep(PARENT_INTERVAL)
    os.kill(os.getpid(), signal.SIGTERM)


def give_up(error: Exception, *, with_traceback: bool = True) -> NoReturn:
    """Print in a sentence why this rank cannot start, and exit. A ValueError is the user's fault.

    `with_traceback` prints one, too, unless the user or the system is at fault.
    """
    rank = os.environ.get("RANK", "0")
    user_fault = isinstance(error, ValueError)
    if user_fault and os.environ.get("LOCAL_RANK", "0") != "0":
        # All ranks find the user's fault, and local rank 0 reports it for all and ends them. If this rank exited
        # before that, torchrun would restart all ranks and nothing would be reported.
        time.sleep(FIRST_RANK_REPORTS)
    if with_traceback and not isinstance(error, (ValueError, OSError)):
        log.error("rank %s", rank, exc_info=error)
    print(
        f"Rank {rank} cannot start: {error if user_fault else describe(error)}", file=sys.stderr, flush=True
    )
    # What fails at the first start fails again. After a restart, dead ranks may still hold a port or memory.
    if user_fault or is_first_start():
        end_torchrun()
    os._exit(1)


def torchrun_logs() -> Path | None:
    """The folder below the temporary one that torchrun made for this rank's error file; None without torchrun.

    torchrun does not delete it.
    """
    for folder in Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parents:
        if folder.name.startswith("torchelastic_") and folder.parent == Path(tempfile.gettempdir()):
            return folder
    return None


def end_torchrun() -> None:
    """Kill torchrun, then end its ranks. Otherwise torchrun restarts the ranks many times and hides the reason."""
    # Several ranks may do this at once. If the first one's SIGTERM ended this rank before it kills torchrun, and
    # torchrun saw that, it would restart the ranks.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getppid()
    command, children = read_command(parent), children_of(parent)
    if "torchrun" not in command and "torch.distributed" not in command:
        return  # torchrun is dead already, and this process was given another parent
    with contextlib.suppress(ProcessLookupError):
        os.kill(parent, signal.SIGKILL)  # before any rank ends, which torchrun must not see
    for pid in children:
        if pid != os.getpid():  # a rank that still imports has not called `end_with_parent`
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    if (logs := torchrun_logs()) is not None:
        shutil.rmtree(logs, ignore_errors=True)
