"""Whether ranks exchange rows through peer memory: all ranks decide it together, by trying it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # it needs Triton
    from wanvae_app.parallel.peer_memory import PeerMemory

log = logging.getLogger(__name__)

FIRST_EXCHANGE_TIMEOUT = 30.0  # seconds for the first exchange, for which kernels are compiled
SWITCH = "WANVAE_PEER_MEMORY"  # environment variable: 0 lets rows travel as messages
MIN_CAPABILITY = (7, 0)  # compute capability that has the kernels' atomic operations between devices
# A gather of tokens overwrites those of the last one, which all ranks must have read by then. A rank is ahead of
# another by at most one exchange for each rank of distance: that must be fewer than lie between two gathers.
MAX_RANKS = 16


def connect_peer_memory(
    rank: int, size: int, device: torch.device, holds_on_all_ranks: Callable[[bool], bool]
) -> PeerMemory | None:
    """Return this rank's access to all ranks' memory; None if any rank cannot reach another's. All ranks call this.

    It is None as well where WANVAE_PEER_MEMORY=0 stands in any rank's environment.
    """
    if device.type != "cuda":
        return None
    peer_memory_class = _import_peer_memory()
    wanted = os.environ.get(SWITCH) != "0"
    if not holds_on_all_ranks(wanted and peer_memory_class is not None and _can_reach_peers(size, device)):
        if not wanted:
            log.info("rank %d: rows travel as messages, because %s=0 says so", rank, SWITCH)
        return None
    assert peer_memory_class is not None
    peer_memory, reason = None, "what one GPU writes into another's memory does not arrive"
    try:
        peer_memory = peer_memory_class(rank, size, device, holds_on_all_ranks)
        peer_memory = peer_memory if rows_arrive(peer_memory) else None
    except Exception as error:  # whatever the driver or the compiler raises: messages work anyway
        peer_memory, reason = None, str(error)
    if not holds_on_all_ranks(peer_memory is not None):
        log.warning("rank %d: rows travel as messages, not from memory to memory: %s", rank, reason)
        return None
    return peer_memory


def rows_arrive(peer_memory: PeerMemory) -> bool:
    """Whether rows that ranks send each other arrive whole and in time; some boards lose them. All ranks call this.

    Compiles the kernels.
    """
    rank, size, device = peer_memory.rank, peer_memory.size, peer_memory.device
    mine = torch.full((4096,), rank, dtype=torch.int64, device=device)
    above, below, _ = peer_memory.exchange_rows(mine, mine, 0, size)
    arrived = torch.cuda.Event()
    arrived.record()
    deadline = time.monotonic() + FIRST_EXCHANGE_TIMEOUT
    while not arrived.query() and time.monotonic() < deadline:
        time.sleep(0.001)
    if not arrived.query():
        peer_memory.abort()
        torch.cuda.synchronize(device)
        return False
    peer_memory.compile_token_kernel()
    above_is_right = rank == 0 or bool((above == rank - 1).all())
    return above_is_right and (rank == size - 1 or bool((below == rank + 1).all()))


def _import_peer_memory() -> type[PeerMemory] | None:
    """Return the class; None in a build of PyTorch without Triton, or in an old one."""
    try:
        from wanvae_app.parallel.peer_memory import PeerMemory
    except ImportError:
        return None
    return PeerMemory


def _can_reach_peers(size: int, device: torch.device) -> bool:
    """Whether all ranks are on this machine, and this GPU reaches the memory of theirs."""
    one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", size)) == size
    if not one_machine or size > MAX_RANKS or torch.version.cuda is None:
        return False
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return False
    others = [peer for peer in range(size) if peer != device.index]
    return all(torch.cuda.can_device_access_peer(device.index, peer) for peer in others)
