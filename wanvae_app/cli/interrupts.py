"""Ctrl-C while a program still starts: it ends at once and says nothing."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells give it


def end_on_interrupt() -> None:
    """End this process on SIGINT, with exit code INTERRUPTED and without cleaning up, until another handler is set.

    For a process that has made nothing yet. Without it, an interrupted import prints a traceback of many lines.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
