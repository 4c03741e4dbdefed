"""Projection: how long a case would take on more ranks than there are, from one rank's slab alone and the price of
an exchange that work waits for. It is an estimate: that the ranks wait for each other's hiccups, for one, is not in it.

    exchange = exchange_seconds(group) or 18e-6
    projection = project(group, vae, case, chunk, 8, repeat, exchange, alone.seconds)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from wanvae_app.bench.case import Case, count_traffic
from wanvae_app.bench.measure import coded, synchronize
from wanvae_app.bench.results import Projection
from wanvae_app.device import tidy_up
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.dry_run import DryRunShard, Traffic
from wanvae_app.parallel.gather import FrameCollector, slab
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import ROWS, WHOLE, Shard

TOKENS = 150e9  # bytes per second between two GPUs over NVLink, what tokens are counted at
NUM_EXCHANGES = 200
# Two frames of 1280 columns and 192 channels, in half precision: a row of them has 0.98 MB.
MESSAGE = (2, 1280, 192)


def project(
    group: Group,
    vae: WanVAE,
    case: Case,
    chunk: int,
    ranks: int,
    repeat: int,
    exchange: float,
    alone: float,
) -> Projection:
    """The case on `ranks` ranks, each with a device like this one; on this rank only, the others may wait.

    `exchange` is what one exchange with the neighbours costs, `alone` what one rank takes for the case, in seconds.
    """
    plans = _plans(vae, case, ranks)
    shares = [shard.bounds[shard.rank + 1] - shard.bounds[shard.rank] for shard in plans]
    last = len(plans) - 1
    edge = max((0, last), key=lambda rank: shares[rank])
    interior = max(range(1, last), key=lambda rank: shares[rank], default=None)
    chosen = [edge] if interior is None else [edge, interior]
    seconds = [slab_seconds(group, vae, case, chunk, plans[r], repeat, collects=r == edge) for r in chosen]
    traffic = [count_traffic(vae.config, case, chunk, plans[r], vae.dtype, vae.device) for r in chosen]
    spent = max(exchange * _total(t).num_exchanges + _total(t).token_bytes / TOKENS for t in traffic)
    whole = max(seconds) + spent
    return Projection(
        ranks=ranks,
        cut="rows" if plans[0].dim == ROWS else "columns",
        slab=max(shares),
        length=plans[0].bounds[-1],
        edge_seconds=seconds[0],
        interior_seconds=None if interior is None else seconds[1],
        num_exchanges=traffic[-1][min(1, len(traffic[-1]) - 1)].num_exchanges,
        exchange_us=exchange * 1e6,
        exchange_seconds=spent,
        seconds=whole,
        speedup=alone / whole,
        efficiency=alone / whole / ranks,
    )


def slab_seconds(
    group: Group, vae: WanVAE, case: Case, chunk: int, shard: Shard, repeat: int, collects: bool
) -> float:
    """Median seconds of one rank's part of a case, without the others; `collects` says whether it brings whole frames
    to its host, as rank 0 does."""
    device, times = group.device, []
    chunks = coded(vae, case, chunk, DryRunShard(shard))
    vae.release()
    tidy_up(device)
    for _ in range(repeat + 1):
        synchronize(device)
        start = time.perf_counter()
        outbox = FrameCollector(group, WHOLE, lambda _: None) if collects and case.kind == "decode" else None
        for x in chunks():
            if outbox is not None:
                outbox.put(_among_zeros(x, shard))
            elif case.kind == "encode":
                synchronize(device)  # as `measure` does
        if outbox is not None:
            outbox.finish()
        synchronize(device)
        times.append(time.perf_counter() - start)
    vae.release()
    return statistics.median(times[1:])


def exchange_seconds(group: Group) -> float | None:
    """Seconds that an exchange of 0.98 MB with each neighbour takes the ranks there are, by the slowest; None for a
    rank alone. All ranks call it. Over a link it is measured inside a CUDA graph, as steps are taken."""
    if group.size == 1:
        return None
    device = group.device
    num_frames, width, channels = MESSAGE
    frames = torch.zeros(1 + num_frames, 6, width + 2, channels, dtype=torch.float16, device=device)
    slots = torch.arange(1, 1 + num_frames, dtype=torch.int32, device=device)
    shard = Shard(ROWS, tuple(range(group.size + 1)), group.rank, group.data, group.peer_memory)

    def exchange(count: int = NUM_EXCHANGES) -> None:
        for _ in range(count):
            shard.fill_borders(frames, slots)

    exchange(2)  # an even number, see `Shard.end_chunk`; kernels are compiled
    again: Callable[[], object] = exchange
    synchronize(device)
    if shard.peer_memory is not None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            exchange()
        again = graph.replay
    group.agree([0.0])
    again()
    synchronize(device)
    group.agree([0.0])
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        again()
        end.record()
        synchronize(device)
        seconds = begin.elapsed_time(end) / 1e3
    else:
        start = time.perf_counter()
        again()
        seconds = time.perf_counter() - start
    return max(spent for (spent,) in group.agree([seconds])) / NUM_EXCHANGES


def _plans(vae: WanVAE, case: Case, ranks: int) -> list[Shard]:
    """The parts of all ranks that have one."""
    height, width = case.latent_shape(vae.config)[3:]
    plans = (Shard.plan(height, width, ranks, rank) for rank in range(ranks))
    return [plan for plan in plans if plan is not None]


def _total(traffic: list[Traffic]) -> Traffic:
    return Traffic(
        sum(t.num_bytes for t in traffic),
        sum(t.token_bytes for t in traffic),
        sum(t.num_exchanges for t in traffic),
    )


def _among_zeros(pixels: Tensor, shard: Shard) -> Tensor:
    """Whole frames of which this rank has made its slab, pixels [T, h, w, 3]."""
    dim = shard.dim - 2
    scale = pixels.shape[dim] // (shard.bounds[shard.rank + 1] - shard.bounds[shard.rank])
    shape = [scale * shard.bounds[-1] if i == dim else n for i, n in enumerate(pixels.shape)]
    whole = pixels.new_zeros(shape)
    slab(whole, shard, shard.rank, dim, scale).copy_(pixels)
    return whole
