"""torchrun for `launch.py`: starts ranks exactly as torch's own does, but ends quietly and leaves no folder.

On a signal, torch's command prints a traceback of its own code, and a warning for each rank that it signals. It
leaves the folder of its logs behind, and it ends with the terminal even under nohup.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile

from torch.distributed.elastic.agent.server import api as agent
from torch.distributed.elastic.multiprocessing import api as processes
from torch.distributed.run import main as torchrun


def main() -> None:
    """Run torchrun with this process's arguments. Exits with 128 + the number of the signal that ended it, as shells
    do."""
    for module in (agent, processes):
        logging.getLogger(module.__name__).setLevel(logging.ERROR)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        sys.argv[1:1] = ["--signals-to-handle", "SIGTERM,SIGINT,SIGQUIT"]
    try:
        with tempfile.TemporaryDirectory(prefix="torchelastic_", ignore_cleanup_errors=True) as logs:
            sys.argv[1:1] = ["--log-dir", logs]
            torchrun()
    except processes.SignalException as end:
        sys.exit(128 + end.sigval)


if __name__ == "__main__":
    main()
