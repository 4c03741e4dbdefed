"""torchrun for `launch.py`: starts ranks exactly as torch's own does, but ends quietly on Ctrl-C or SIGTERM.

Torch's command prints a traceback of its own code then, and a warning for each rank that it signals.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.agent.server import api as agent
from torch.distributed.elastic.multiprocessing import api as processes
from torch.distributed.run import main as torchrun


def main() -> None:
    """Run torchrun with this process's arguments. Exits with 128 + the number of the signal that ended it, as shells
    do."""
    for module in (agent, processes):
        logging.getLogger(module.__name__).setLevel(logging.ERROR)
    try:
        torchrun()
    except processes.SignalException as end:
        sys.exit(128 + end.sigval)


if __name__ == "__main__":
    main()
