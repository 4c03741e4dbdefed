"""torchrun for `launch.py`: starts ranks as torch's own does, but lets no stranger in, and ends quietly.

Torch's own store listens on every address of the machine, without a password. Here it listens on the master's
address alone, which is loopback on one machine. On Ctrl-C or SIGTERM torch prints a traceback of its own code, and a
warning for each rank that it signals.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.agent.server import api as agent
from torch.distributed.elastic.multiprocessing import api as processes
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.run import main as torchrun

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


def main() -> None:
    """Run torchrun with this process's arguments. Exits with 128 + the number of the signal that ended it, as shells
    do."""
    for module in (agent, processes):
        logging.getLogger(module.__name__).setLevel(logging.ERROR)
    rendezvous_handler_registry.register(RENDEZVOUS, make_rendezvous)
    try:
        torchrun()
    except processes.SignalException as end:
        sys.exit(128 + end.sigval)
    except ValueError as error:  # the store's address or port
        sys.exit(str(error))


if __name__ == "__main__":
    main()
