"""Measures how long one exchange of halo rows between neighbouring ranks takes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from wanvae_app.bench.timing import Marks, synchronize
from wanvae_app.parallel.partition import ROWS
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

NUM_EXCHANGES = 200
# One exchange sends a row of each frame, in half precision: 0.98 MB to each neighbour.
NUM_FRAMES, WIDTH, CHANNELS = 2, 1280, 192


def exchange_seconds(group: Group) -> float | None:
    """Seconds of one exchange, by the slowest rank; None if the group has one rank. All ranks call this.

    Over peer memory, the exchanges run inside a CUDA graph, as they do in a clip.
    """
    if group.size == 1:
        return None
    device = group.device
    frames = torch.zeros(1 + NUM_FRAMES, 6, WIDTH + 2, CHANNELS, dtype=torch.float16, device=device)
    slots = torch.arange(1, 1 + NUM_FRAMES, dtype=torch.int32, device=device)
    shard = Shard(ROWS, tuple(range(group.size + 1)), group.rank, group.data, group.peer_memory)

    def exchange(count: int = NUM_EXCHANGES) -> None:
        for _ in range(count):
            shard.fill_halo(frames, slots)

    exchange(2)  # compiles kernels; an even number, see `Shard.make_sequence_even`
    repeat: Callable[[], object] = exchange
    synchronize(device)
    if shard.peer_memory is not None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            exchange()
        repeat = graph.replay
    group.agree([0.0])
    repeat()
    synchronize(device)
    group.agree([0.0])
    marks = Marks(device)
    repeat()
    marks.set()
    synchronize(device)
    return max(seconds for (seconds,) in group.agree(marks.seconds())) / NUM_EXCHANGES
