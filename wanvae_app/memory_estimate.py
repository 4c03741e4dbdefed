"""How much memory a clip needs, found by coding it with tensors that have shapes but no data."""

from __future__ import annotations

import math
import os
import re
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wanvae_app.config import WanConfig
from wanvae_app.fast.choice import build_vae
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.parallel.dry_run import DryRunShard
from wanvae_app.parallel.shard import Shard

CPU = torch.device("cpu")
HEAP = 1.4  # bytes that glibc's heap takes for a byte of tensors: 1.0 to 1.6 in clips of 480 and 720 rows
ATTENTION_TILE = 128  # channels of a result that CUDA's memory-efficient attention keeps in registers
LEAST_ADVISED = 8  # rows and columns of the smallest latent that is worth advising
MAX_ACTIVATIONS = 30  # of the largest size that live at once: twice what was ever seen


@dataclass(frozen=True)
class Clip:
    """A clip and how it is coded: all that its memory depends on, except for the ranks that share it."""

    config: WanConfig
    num_latents: int  # latent frames
    height: int  # of the latent
    width: int
    chunk: int  # latent frames per chunk, after the first chunk
    dtype: torch.dtype
    device: torch.device = CPU
    path: CodePath | None = None  # of the VAE; None: what this device chooses


class AllocationCounter(TorchDispatchMode):
    """Adds up the bytes of all tensors that are made within it, as long as they live: `live` now, `peak` at most.

    `existing` are tensors that were made before and live longer: a view of one is no tensor that is made.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in existing}  # storages that live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()  # views share it
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


class CudaOperations(TorchFunctionMode):
    """Lets operations take the memory that CUDA's kernels take, where other devices decompose them.

    `rms_norm` computes in registers there. Attention is one kernel for all dtypes but float64, whatever the number of
    channels; where these are more than a tile's, it adds up its result in float32 first.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.rms_norm:
            x = args[0]
            x.new_empty(x.shape[:-1], dtype=torch.float32)  # the inverse root of each mean
            return torch.empty_like(x)
        if func is F.scaled_dot_product_attention and args[0].dtype != torch.float64:
            q, _, v = args
            out = q.new_empty(*q.shape[:-1], v.shape[-1])
            if v.shape[-1] > ATTENTION_TILE and q.dtype != torch.float32:
                torch.empty_like(out, dtype=torch.float32)
            return out
        return func(*args, **kwargs)


@lru_cache(maxsize=256)
def activation_bytes(clip: Clip, phase: str, size: int = 1, rank: int = 0) -> int:
    """Return the peak bytes of activations, past frames and results on `rank` of `size` while it codes the clip.

    `phase` is "decode" or "encode". The result is 0 for a rank that owns no part of the picture. Weights and the
    workspace of convolution libraries come on top.
    """
    plan = Shard.plan(clip.height, clip.width, size, rank)
    if plan is None:
        return 0
    config, shard = clip.config, DryRunShard(plan)
    with torch.device("meta"):
        vae = build_vae(config, clip.device, clip.dtype, path=clip.path).to(clip.dtype).requires_grad_(False)
    encodes = phase == "encode"
    channels, scale = (config.in_channels, config.spatial_factor) if encodes else (config.z_dim, 1)
    counter, state = AllocationCounter(vae.parameters()), vae.new_state(shard)
    # Three chunks show the peak: later ones do the same as the third, or are shorter.
    chunks = [1, *[min(clip.chunk, clip.num_latents - 1)] * min(2, clip.num_latents - 1)]
    operations = CudaOperations() if clip.device.type == "cuda" else nullcontext()
    # Not in inference mode, which would hide what composite operations allocate inside.
    with counter, operations, torch.no_grad():
        for num_latents in chunks:
            num_frames = num_latents
            if encodes and not state.first:
                num_frames *= config.temporal_factor
            shape = (1, num_frames, clip.height * scale, clip.width * scale, channels)  # B T H W C
            whole = torch.empty(shape, dtype=clip.dtype, device="meta")
            x = shard.part(whole.movedim(-1, 1), scale).contiguous(memory_format=torch.channels_last_3d)
            del whole
            x = vae.encode(x, state) if encodes else vae.decode(x, state)
    return counter.peak


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that this rank can still allocate on its device; None where the system does not tell.

    On the CPU, it is the rank's share of what the machine has available.
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
    clip: Clip,
    phases: tuple[str, ...],
    size: int,
    rank: int,
    free: int | None,
    *,
    interleaved: bool = False,
    most_ranks: int = 1,
) -> str:
    """Return why `rank` of `size` cannot code its part of a clip in `free` bytes, and what would fit; "" if it can.

    `phases` are the steps of the job, "encode" and "decode". Their chunks come one phase after the other, or
    `interleaved`; then both phases need their memory at once. If `free` is None, nothing is refused. `most_ranks` is
    how many ranks there could be: more are not advised.
    """
    if free is None or _surely_fits(clip, free, interleaved):
        return ""

    def needed_bytes(clip: Clip, size: int, rank: int) -> int:
        each = [activation_bytes(clip, phase, size, rank) for phase in phases]
        needed = sum(each) if interleaved else max(each)
        return round(HEAP * needed) if clip.device.type == "cpu" else needed

    needed = needed_bytes(clip, size, rank)
    if needed <= free:
        return ""
    # A few candidates only, because each takes a simulation.
    chunks = [chunk for chunk in (clip.chunk // 2, clip.chunk // 4, 1) if 0 < chunk < clip.chunk]
    shorter = [chunk for chunk in chunks if needed_bytes(replace(clip, chunk=chunk), size, rank) <= free]
    counts = [n for n in sorted({2, 4, 8, 16, 32, most_ranks}) if size < n <= most_ranks]
    if clip.device.type == "cpu":  # all ranks share one memory, so each of more ranks has less
        larger = [n for n in counts if needed_bytes(clip, n, n // 2) <= free * size // n]
    else:
        larger = [n for n in counts if needed_bytes(clip, n, n // 2) <= free]
    if shorter:
        advice = f"{shorter[0]} latent frame{'s' * (shorter[0] > 1)} per chunk would fit"
    elif larger:
        advice = f"{larger[0]} ranks would fit"
    else:
        advice = _advise_size(clip, free / needed, lambda smaller: needed_bytes(smaller, size, rank) <= free)
    return (
        f"rank {rank} would need {needed / 2**30:.1f} GiB for this and has {max(free, 0) / 2**30:.1f} GiB free; "
        f"{advice}"
    )


def _advise_size(clip: Clip, share: float, fits: Callable[[Clip], bool]) -> str:
    """Return which smaller picture of the same shape would fit, where `share` of the memory that it needs is free."""
    factor = clip.config.output_factor
    for margin in (0.98, 0.9, 0.75, 0.5):
        scale = math.sqrt(max(share, 0) * margin)  # memory is nearly proportional to the pixels
        smaller = replace(clip, height=int(clip.height * scale), width=int(clip.width * scale))
        if min(smaller.height, smaller.width) >= LEAST_ADVISED and fits(smaller):
            return f"a picture of {smaller.height * factor}x{smaller.width * factor} would fit"
    return "a smaller picture would fit"


def _surely_fits(clip: Clip, free: int, interleaved: bool) -> bool:
    """Whether a generous bound fits into half of the free memory; then no simulation is needed, which takes seconds.

    The bound is MAX_ACTIVATIONS tensors like the largest one: a whole chunk at the finest scale, on a single rank.
    """
    config = clip.config
    num_frames = config.temporal_factor * min(clip.chunk, clip.num_latents)
    num_pixels = num_frames * clip.height * clip.width * config.output_factor**2
    # A level further from the pixels has a quarter of them. Encoder and decoder have a width on both sides of a level.
    sides = (config.encoder_dims[1:], config.decoder_dims[:0:-1])
    widest = max(width / (1 << 2 * level) for widths in sides for level, width in enumerate(widths))
    channels_per_pixel = math.ceil(widest / config.patch_size**2)
    largest = num_pixels * channels_per_pixel * clip.dtype.itemsize
    return MAX_ACTIVATIONS * largest * (1 + interleaved) < free / 2
