"""Ctrl-C and other signals that end a program at once, with a word or without one."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells give it
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


def end_on_interrupt() -> None:
    """End this process on SIGINT, with exit code INTERRUPTED and without cleaning up, until another handler is set.

    For a process that has made nothing yet. Without it, an interrupted import prints a traceback of many lines.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def default_on_signals() -> None:
    """Let SIGINT end this process at once and without a word, also while it waits in a library."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tell_on_signals(tell: Callable[[str], None]) -> None:
    """On a signal that ends programs, call `tell` with what happened, then end this process with 128 + its number.

    A thread of its own does that, while the main thread may be busy in a library. A SIGHUP that nohup has made ignored
    stays ignored. Only the main thread may call this.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)

    def wait() -> None:
        with writer:  # which lives as long as this thread
            (number,) = reader.recv(1)
            try:
                tell("Interrupted" if number == signal.SIGINT else f"Ended by {signal.Signals(number).name}")
            finally:
                os._exit(128 + number)

    threading.Thread(target=wait, name="signals", daemon=True).start()
