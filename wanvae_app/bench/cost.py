"""What a case costs, counted by coding it without data: arithmetic, and bytes from rank to rank."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from wanvae_app.bench.case import Case
from wanvae_app.config import WanConfig
from wanvae_app.fast.choice import build_vae
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.dry_run import DryRunShard, Traffic
from wanvae_app.parallel.shard import Shard


@lru_cache(maxsize=64)
def count_tflop(config: WanConfig, case: Case) -> float:
    """The floating-point operations of a case in units of 1e12, one multiplication and addition as two.

    Runs two chunks on the meta device with PyTorch's FlopCounterMode; all chunks but the first are alike.
    """
    with torch.device("meta"):
        vae = WanVAE(config).requires_grad_(False)
    state = ClipState()
    counts: list[int] = []
    sizes = case.sizes(config, 1)
    for size in sizes[:2]:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            _code_chunk(vae, case, size, state)
        counts.append(counter.get_total_flops())
    return (counts[0] + counts[-1] * (len(sizes) - 1)) / 1e12


def count_traffic(
    config: WanConfig,
    case: Case,
    chunk: int,
    shard: Shard,
    dtype: torch.dtype,
    path: CodePath = PLAIN,
) -> list[Traffic]:
    """What this rank sends to the others in each chunk of a case, counted by running chunks on the meta device.

    Counts what `path` sends. The plain path, which is the default, sends the least possible: of new frames,
    the boundary row to each neighbour whose 3x3 convolution reads it, and for attention each pixel once to every other
    rank. The fast path sends more bytes, because its rows are padded, and exchanges more often where it codes a chunk a
    few frames at a time.
    """
    with torch.device("meta"):
        vae = build_vae(config, torch.device("cuda"), dtype, path=path)
    vae = vae.to(dtype).requires_grad_(False)
    dry_run = DryRunShard(shard)
    state, sizes = vae.new_state(dry_run), case.sizes(config, chunk)
    known: dict[tuple[bool, int], Traffic] = {}  # by whether the chunk is the clip's first, and its frames
    with torch.no_grad():
        for size in sizes:
            step = (state.first, size)
            if step not in known:
                dry_run.traffic = Traffic()
                _code_chunk(vae, case, size, state)
                known[step] = dry_run.traffic
    return [known[(index == 0, size)] for index, size in enumerate(sizes)]


def _code_chunk(vae: WanVAE, case: Case, size: int, state: ClipState) -> None:
    """Code this rank's part of one chunk of `size` frames, on tensors without data."""
    config, shard = vae.config, state.shard
    if case.kind == "decode":
        _, channels, _, height, width = case.latent_shape(config)
        scale = 1
    else:
        channels, height, width, scale = config.in_channels, case.height, case.width, config.spatial_factor
    x = torch.empty(1, size, height, width, channels, dtype=vae.dtype, device="meta").movedim(-1, 1)
    if shard.num_ranks > 1:
        x = shard.part(x, scale)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    (vae.decode if case.kind == "decode" else vae.encode)(x, state)
