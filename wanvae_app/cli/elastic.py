"""torchrun as `launch.py` needs it: it lets no stranger in, ends quietly and leaves no folder.

Torch's own store listens on every address of the machine, without a password. Here it listens on the master's
address alone, which is loopback on one machine. On a signal torch prints a traceback of its own code, and a warning
for each rank that it signals. It leaves the folder of its logs behind, and it ends with the terminal even under nohup.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile

from torch.distributed.elastic.agent.server import api as agent
from torch.distributed.elastic.multiprocessing import api as processes
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.run import main as torchrun

from wanvae_app.cli.interrupts import INTERRUPTED
from wanvae_app.cli.launch import RENDEZVOUS
from wanvae_app.parallel.network import serve_store

MEETING_TIMEOUT = 600  # seconds for all machines' agents to come


class BoundRendezvous(StaticTCPRendezvous):
    """A rendezvous whose store listens on the master's address alone, and on the port that is free there for port 0."""

    def get_backend(self) -> str:
        return RENDEZVOUS

    def next_rendezvous(self) -> RendezvousInfo:
        if self._store is None and self.rank == 0:
            store = serve_store(self.master_addr, self.master_port, self.world_size, self.timeout)
            self._store, self.master_port = store, store.port
        return super().next_rendezvous()


def make_rendezvous(params: RendezvousParameters) -> RendezvousHandler:
    """Make the rendezvous of this machine, `rank` in the configuration, for `max_nodes` machines."""
    host, port = parse_rendezvous_endpoint(params.endpoint, default_port=0)
    rank = int(params.config["rank"])
    timeout = int(params.get_as_int("timeout", MEETING_TIMEOUT) or MEETING_TIMEOUT)
    return BoundRendezvous(host, port, rank, params.max_nodes, params.run_id, timeout)


def run_torchrun() -> None:
    """Run torchrun with this process's arguments.

    Exits with 128 + the number of the signal that ended it, as shells do, or as the first rank that failed.
    """
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the folder of logs must be deleted from here on
    for module in (agent, processes):
        logging.getLogger(module.__name__).setLevel(logging.CRITICAL)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        sys.argv[1:1] = ["--signals-to-handle", "SIGTERM,SIGINT,SIGQUIT"]
    rendezvous_handler_registry.register(RENDEZVOUS, make_rendezvous)
    try:
        with tempfile.TemporaryDirectory(prefix="torchelastic_", ignore_cleanup_errors=True) as logs:
            sys.argv[1:1] = ["--log-dir", logs]
            torchrun()
    except processes.SignalException as end:
        sys.exit(128 + end.sigval)
    except KeyboardInterrupt:  # before torch listens to signals
        sys.exit(INTERRUPTED)
    except ChildFailedError as error:
        sys.exit(report_failure({rank: failure.exitcode for rank, failure in error.failures.items()}))
    except ValueError as error:  # the store's address or port
        sys.exit(str(error))


def report_failure(exit_codes: dict[int, int]) -> int:
    """Say which ranks were killed, and by which signal, by their exit codes; return the exit code for all.

    Ranks that failed otherwise have said why. Those that got SIGTERM were ended by torchrun.
    """
    killed = {rank: -code for rank, code in exit_codes.items() if code < 0 and -code != signal.SIGTERM}
    for rank, number in killed.items():
        hint = " Perhaps the system's memory ran out." if number == signal.SIGKILL else ""
        print(f"Rank {rank} was killed by {signal.Signals(number).name}.{hint}", file=sys.stderr)
    failed = [code for code in exit_codes.values() if 0 < code < 128]
    return 1 if killed or not failed else failed[0]
