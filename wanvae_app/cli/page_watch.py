"""Watches rank 0's page from a process of its own, because a process that is stopped or hangs cannot notice that.

    python -m wanvae_app.cli.page_watch HOST PORT PID

Asks for the page's health every PERIOD seconds. When there was no answer for SILENCE seconds, it kills the process PID,
its parent, and torchrun starts all ranks again. Ends with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PERIOD = 5.0  # seconds between two questions, and for an answer
SILENCE = 30.0  # seconds without an answer after which the page counts as hung
PR_SET_PDEATHSIG = 1  # prctl(2)
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # addresses to listen on, and where these are reached


def start(host: str, port: int) -> None:
    """Start the watcher of this process, whose main thread must be the caller: the watcher ends with that thread."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", __spec__.name, host, str(port), str(os.getpid())]
    # Ctrl-C reaches all processes, and the parent decides. The watcher inherits that it is blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def watch(host: str, port: int, pid: int, period: float = PERIOD, silence: float = SILENCE) -> None:
    """Return when the parent `pid` has ended, or was killed because its page was silent."""
    heard = looked = time.monotonic()
    while os.getppid() == pid:
        answered = is_answered(host, port, period)
        now = time.monotonic()
        # A watcher that was itself stopped, as all processes are by Ctrl-Z, has missed the answers.
        if answered or now - looked > 3 * period:
            heard = now
        looked = now
        if now - heard > silence and os.getppid() == pid:
            print(
                f"Rank 0 gave no answer for {now - heard:.0f} s; the ranks are being restarted.",
                file=sys.stderr,
                flush=True,
            )
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # SIGTERM does not reach a stopped process
            return
        time.sleep(period)


def is_answered(host: str, port: int, timeout: float) -> bool:
    """Whether the page answers anything, a refusal too, within `timeout` seconds."""
    connection = http.client.HTTPConnection(WILDCARDS.get(host, host), port, timeout=timeout)
    try:
        connection.request("GET", "/health", headers={"Host": "localhost"})
        connection.getresponse()
    except (
        ConnectionResetError,
        http.client.HTTPException,
    ):  # closed by a server that has too many connections
        return True
    except OSError:  # a time-out, or nobody listens
        return False
    finally:
        connection.close()
    return True


def main() -> None:
    """Watch what the command line names."""
    host, port, pid = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    watch(host, int(port), int(pid))


if __name__ == "__main__":
    main()
