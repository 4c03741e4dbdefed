"""Runs a command for a program, and ends all its processes when the program ends or lets go.

    python -m wanvae_app.cli.supervisor PID COMMAND...

PID is the program, the parent. It lets go by closing this process's standard input. A notebook's kernel may be killed
at any time, so the end of the command cannot be left to it. Exits with the command's exit code. Needs the standard
library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

from wanvae_app.parallel.proc_stat import children_of, read_process

PERIOD = 0.5  # seconds between two looks at the program
GRACE = 10.0  # seconds for the command's processes to end after SIGTERM
PR_SET_PDEATHSIG = 1  # prctl(2)


def supervise(program: int, command: list[str]) -> int:
    """Run the command until it ends, or until the program does; return its exit code."""
    # Its own session: a Ctrl-C that reaches this process is none of its business.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_supervisor
    )
    try:
        while process.poll() is None:
            if os.getppid() != program or select.select([sys.stdin], [], [], PERIOD)[0]:
                break
    finally:
        end(process)
    return process.wait()


def end(process: subprocess.Popen[bytes], grace: float = GRACE) -> None:
    """End a process and all that it has started: by SIGTERM to it, then by SIGKILL to those that are left."""
    pids = [process.pid, *descendants(process.pid)]
    process.terminate()
    if not _have_ended(process, pids, grace):
        pids += [found for pid in pids for found in descendants(pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _have_ended(process, pids, grace)


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, and of theirs."""
    found = children_of(pid)
    for child in found:  # grows meanwhile
        found += children_of(child)
    return found


def is_running(pid: int) -> bool:
    """Whether a process has not ended."""
    stat = read_process(pid)
    return stat is not None and not stat.state.startswith("Z")


def _have_ended(process: subprocess.Popen[bytes], pids: list[int], seconds: float) -> bool:
    """Wait until a process and the others have ended. Return False if that takes longer than `seconds`."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        process.poll()  # reaps it
        if not any(map(is_running, pids)):
            return True
        time.sleep(0.05)
    return False


def _end_with_supervisor() -> None:
    """Receive SIGTERM if the supervisor is killed. Runs in the new process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> None:
    """Run what the command line says. SIGTERM ends the command."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    program, *command = sys.argv[1:]
    sys.exit(supervise(int(program), command))


if __name__ == "__main__":
    main()
