"""torchrun for `launch.py`: what it starts and how is torch's own, but its end on Ctrl-C or SIGTERM is a quiet one.

Torch's command would print a traceback of its own insides, and a warning for every rank that it passes the signal to.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.agent.server import api as agent
from torch.distributed.elastic.multiprocessing import api as processes
from torch.distributed.run import main as torchrun


def main() -> None:
    """Run torchrun with this process's arguments. Ended by a signal, it exits with 128 + that number, as in shells."""
    for module in (agent, processes):
        logging.getLogger(module.__name__).setLevel(logging.ERROR)
    try:
        torchrun()
    except processes.SignalException as end:
        sys.exit(128 + end.sigval)


if __name__ == "__main__":
    main()
