"""Estimates how long a case takes on more ranks than there are.

    exchange = exchange_seconds(group) or 18e-6
    projection = project(group, vae, case, chunk, 8, repeat, exchange, one_rank.seconds)

Times one rank's slab alone, and adds the exchanges that it would wait for. Delays of single ranks, for which all others
wait, are not in it.
"""

from __future__ import annotations

import statistics
import time

from torch import Tensor

from wanvae_app.bench.case import Case
from wanvae_app.bench.cost import count_traffic
from wanvae_app.bench.measure import clip_coder
from wanvae_app.bench.results import Projection
from wanvae_app.bench.timing import synchronize
from wanvae_app.device import tidy_up
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.dry_run import DryRunShard, Traffic
from wanvae_app.parallel.frame_gather import FrameCollector
from wanvae_app.parallel.partition import ROWS
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import WHOLE, Shard

TOKEN_BANDWIDTH = 150e9  # bytes per second between two GPUs over NVLink, assumed for tokens


def project(
    group: Group,
    vae: WanVAE,
    case: Case,
    chunk: int,
    ranks: int,
    repeat: int,
    exchange: float,
    one_rank: float,
) -> Projection:
    """Project the case to `ranks` ranks, each on a device like this one. One rank calls this, the others may wait.

    `exchange` is the seconds of one exchange of halo rows, `one_rank` those of the whole case on one rank.
    """
    plans = _plan_all(vae, case, ranks)
    shares = [_num_rows(shard) for shard in plans]
    last = len(plans) - 1
    edge = max((0, last), key=lambda rank: shares[rank])
    interior = max(range(1, last), key=lambda rank: shares[rank], default=None)
    chosen = [edge] if interior is None else [edge, interior]
    seconds = [slab_seconds(group, vae, case, chunk, plans[r], repeat, collects=r == edge) for r in chosen]
    traffic = [count_traffic(vae.config, case, chunk, plans[r], vae.dtype, vae.path) for r in chosen]
    exchanging = max(_exchanging_seconds(chunks, exchange) for chunks in traffic)
    total = max(seconds) + exchanging
    chunks = traffic[-1]
    later_chunk = chunks[min(1, len(chunks) - 1)]
    return Projection(
        ranks=ranks,
        cut="rows" if plans[0].dim == ROWS else "columns",
        slab=max(shares),
        length=plans[0].bounds[-1],
        edge_seconds=seconds[0],
        interior_seconds=None if interior is None else seconds[1],
        num_exchanges=later_chunk.num_exchanges,
        exchange_us=exchange * 1e6,
        exchange_seconds=exchanging,
        seconds=total,
        speedup=one_rank / total,
        efficiency=one_rank / total / ranks,
    )


def slab_seconds(
    group: Group, vae: WanVAE, case: Case, chunk: int, shard: Shard, repeat: int, collects: bool
) -> float:
    """Median seconds of one rank's part of a case, without the other ranks.

    With `collects` it also copies whole frames to its host, as rank 0 does.
    """
    device, times = group.device, []
    code_clip = clip_coder(vae, case, chunk, DryRunShard(shard))
    vae.release()
    tidy_up(device)
    for _ in range(repeat + 1):
        synchronize(device)
        start = time.perf_counter()
        outbox = FrameCollector(group, WHOLE, lambda _: None) if collects and case.kind == "decode" else None
        for x in code_clip():
            if outbox is not None:
                outbox.put(_whole_frames(x, shard))
            elif case.kind == "encode":
                synchronize(device)  # as `measure` does
        if outbox is not None:
            outbox.finish()
        synchronize(device)
        times.append(time.perf_counter() - start)
    vae.release()
    return statistics.median(times[1:])


def _plan_all(vae: WanVAE, case: Case, ranks: int) -> list[Shard]:
    """The shards of all ranks that have a part."""
    *_, height, width = case.latent_shape(vae.config)
    plans = (Shard.plan(height, width, ranks, rank) for rank in range(ranks))
    return [plan for plan in plans if plan is not None]


def _num_rows(shard: Shard) -> int:
    """Latent rows, or columns, of this rank's slab."""
    return shard.bounds[shard.rank + 1] - shard.bounds[shard.rank]


def _exchanging_seconds(chunks: list[Traffic], exchange: float) -> float:
    """Seconds that one rank waits for halo rows, at `exchange` seconds each, and for tokens."""
    num_exchanges = sum(chunk.num_exchanges for chunk in chunks)
    token_bytes = sum(chunk.token_bytes for chunk in chunks)
    return exchange * num_exchanges + token_bytes / TOKEN_BANDWIDTH


def _whole_frames(pixels: Tensor, shard: Shard) -> Tensor:
    """Whole frames [T, H, W, 3] with this rank's pixels [T, h, w, 3] in their place, and zeros elsewhere."""
    dim = shard.dim - 2
    scale = pixels.shape[dim] // _num_rows(shard)
    shape = [scale * shard.bounds[-1] if i == dim else n for i, n in enumerate(pixels.shape)]
    whole = pixels.new_zeros(shape)
    shard.part(whole, scale, dim).copy_(pixels)
    return whole
