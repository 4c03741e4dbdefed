"""How much memory a job will need, found by running its steps on tensors that have shapes but no data."""

from __future__ import annotations

import os
import re
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wanvae_app.config import WanConfig
from wanvae_app.fast.choice import build_vae
from wanvae_app.parallel.dry_run import DryRunShard
from wanvae_app.parallel.shard import Shard

CPU = torch.device("cpu")
HEAP = 1.4  # bytes that glibc's heap takes for a byte of tensors: 1.0 to 1.6 in clips of 480 and 720 rows


class _Ledger(TorchDispatchMode):
    """Adds up the storages that are alive at once, whatever made them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        num_bytes = storage.nbytes()
        self.live += num_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, num_bytes)

    def _drop(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.live -= num_bytes


@lru_cache(maxsize=256)
def activation_bytes(
    config: WanConfig,
    kind: str,
    num_latents: int,
    height: int,
    width: int,
    chunk: int,
    dtype: torch.dtype,
    size: int = 1,
    rank: int = 0,
    device: torch.device = CPU,
) -> int:
    """Peak bytes of activations, caches and frames on `rank` of `size` while a clip is coded; 0 if it has no part.

    The latent has num_latents frames of height x width, `chunk` at a time; `kind` is "decode" or "encode".
    Weights, and the convolution library's own workspace, come on top.
    """
    plan = Shard.plan(height, width, size, rank)
    if plan is None:
        return 0
    shard = DryRunShard(plan)
    with torch.device("meta"):
        vae = build_vae(config, device, dtype).to(dtype).requires_grad_(False)
    ledger, state = _Ledger(), vae.new_state(shard)
    sizes = [1, *[min(chunk, num_latents - 1)] * min(2, num_latents - 1)]
    scale = config.spatial_factor if kind == "encode" else 1
    # Not in inference mode, which would hide what composite operations allocate inside.
    with ledger, torch.no_grad():
        for index, latents in enumerate(sizes):
            frames = latents if kind == "decode" else config.temporal_factor * latents
            if index == 0 and kind == "encode":
                frames = config.num_frames(latents)
            channels = config.z_dim if kind == "decode" else 3
            whole = torch.empty(
                1, frames, height * scale, width * scale, channels, dtype=dtype, device="meta"
            )
            x = shard.part(whole.movedim(-1, 1), scale).contiguous(memory_format=torch.channels_last_3d)
            del whole
            x = (vae.decode if kind == "decode" else vae.encode)(x, state)
    return ledger.peak


def free_bytes(device: torch.device) -> int | None:
    """Memory that this rank can still take on its device; on the CPU its share of what the machine has.

    None where the system does not say.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        return None
    return int(found[1]) * 1024 // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if found else None


def refusal(
    config: WanConfig,
    kinds: tuple[str, ...],
    shape: tuple[int, int, int],
    chunk: int,
    dtype: torch.dtype,
    size: int,
    rank: int,
    free: int | None,
    device: torch.device = CPU,
    interleaved: bool = False,
) -> str:
    """Why `rank` of `size` cannot take its part in a clip, in a sentence, and what would fit; "" if it can.

    `kinds` are the steps of the job, "encode" and "decode", one after the other or `interleaved`; `shape` is the
    latent's T, H, W.
    """
    num_latents, height, width = shape

    def need(chunk: int, size: int, rank: int) -> int:
        arguments = (num_latents, height, width, chunk, dtype, size, rank, device)
        each = [activation_bytes(config, kind, *arguments) for kind in kinds]
        most = sum(each) if interleaved else max(each)
        return round(HEAP * most) if device.type == "cpu" else most

    # Far from the limit nothing is simulated: 30 times the largest activation is twice what was ever seen.
    frames = config.temporal_factor * min(chunk, num_latents)
    widest = max(config.base_dim, config.decoder_base_dim) // config.patch_size**2
    pixels = frames * height * width * config.output_factor**2
    if free is None or 30 * pixels * widest * dtype.itemsize * (1 + interleaved) < free / 2:
        return ""
    needed = need(chunk, size, rank)
    if needed <= free:
        return ""
    advice = "a smaller picture would"
    # A few candidates will do: each is simulated.
    shorter = [c for c in (chunk // 2, chunk // 4, 1) if 0 < c < chunk and need(c, size, rank) <= free]
    larger = [n for n in (2, 4, 8, 16, 32) if n > size and need(chunk, n, n // 2) <= free]
    if shorter:
        advice = f"{shorter[0]} latent frame{'s' * (shorter[0] > 1)} per chunk would"
    elif larger:
        advice = f"{larger[0]} ranks would"
    return (
        f"rank {rank} would need {needed / 2**30:.1f} GiB for this and has {max(free, 0) / 2**30:.1f} GiB free; "
        f"{advice} fit"
    )
