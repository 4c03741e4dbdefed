"""A piece of work to time, and what it takes by counting alone: arithmetic, and bytes from rank to rank."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from wanvae_app.codec import chunk_sizes
from wanvae_app.config import WanConfig
from wanvae_app.fast.choice import build_vae
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.dry_run import DryRunShard, Traffic
from wanvae_app.parallel.shard import Shard


@dataclass(frozen=True)
class Case:
    """One piece of work: "decode" or "encode", and the clip's height, width and number of frames."""

    kind: str
    height: int
    width: int
    num_frames: int

    @classmethod
    def parse(cls, text: str, config: WanConfig) -> Case:
        """A case such as decode:480x832x81; ValueError if this VAE cannot do it."""
        found = re.fullmatch(r"(decode|encode):(\d+)x(\d+)x(\d+)", text)
        if found is None:
            raise ValueError(
                f"{text!r} is no case; write KIND:HEIGHTxWIDTHxFRAMES, such as decode:480x832x81."
            )
        case = cls(found[1], int(found[2]), int(found[3]), int(found[4]))
        config.num_latents(case.num_frames)
        if case.height % config.spatial_factor or case.width % config.spatial_factor:
            raise ValueError(f"{text}: height and width must be multiples of {config.spatial_factor}.")
        return case

    def latent_shape(self, config: WanConfig) -> tuple[int, int, int, int, int]:
        """The whole latent, B C T H W."""
        scale = config.spatial_factor
        num_latents = config.num_latents(self.num_frames)
        return 1, config.z_dim, num_latents, self.height // scale, self.width // scale

    def sizes(self, config: WanConfig, chunk: int) -> list[int]:
        """Frames of each chunk that goes in, latent ones if the case decodes, for `chunk` latent frames at a time."""
        sizes = chunk_sizes(config.num_latents(self.num_frames), chunk)
        if self.kind == "decode":
            return sizes
        return [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]

    def __str__(self) -> str:
        return f"{self.kind} {self.height}x{self.width}x{self.num_frames}"


@lru_cache(maxsize=64)
def tera_flop(config: WanConfig, case: Case) -> float:
    """The arithmetic of a case in TFLOP, counted by running two chunks without data."""
    with torch.device("meta"):
        vae = WanVAE(config).requires_grad_(False)
    state, counts = ClipState(), []
    sizes = case.sizes(config, 1)
    for size in sizes[:2]:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            _step(vae, case, size, state)
        counts.append(counter.get_total_flops())
    return (counts[0] + counts[-1] * (len(sizes) - 1)) / 1e12


def count_traffic(
    config: WanConfig,
    case: Case,
    chunk: int,
    shard: Shard,
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> list[Traffic]:
    """What this rank tells the others in each chunk of a case, counted by running chunks without data.

    Counted is the path that runs on `device`, or without one the plain path. That sends the least possible: a 3x3
    convolution needs one row of the new frames, as wide as the picture, from each neighbour that its taps reach, and
    attention everyone's pixels once. The fast path's rows have the padding of its frames, and where it takes a few
    frames at a time it asks more often.
    """
    with torch.device("meta"):
        vae = WanVAE(config) if device is None else build_vae(config, device, dtype)
    vae = vae.to(dtype).requires_grad_(False)
    dry_run = DryRunShard(shard)
    state, sizes = vae.new_state(dry_run), case.sizes(config, chunk)
    known: dict[tuple[bool, int], Traffic] = {}
    with torch.no_grad():
        for size in sizes:
            step = (state.first, size)
            if step not in known:
                dry_run.traffic = Traffic()
                _step(vae, case, size, state)
                known[step] = dry_run.traffic
    return [known[(index == 0, size)] for index, size in enumerate(sizes)]


def _step(vae: WanVAE, case: Case, size: int, state: ClipState) -> None:
    """One chunk of `size` frames, of this rank's part, on tensors without data."""
    config, shard = vae.config, state.shard
    if case.kind == "decode":
        _, channels, _, height, width = case.latent_shape(config)
        scale = 1
    else:
        channels, height, width, scale = 3, case.height, case.width, config.spatial_factor
    x = torch.empty(1, size, height, width, channels, dtype=vae.dtype, device="meta").movedim(-1, 1)
    if shard.num_ranks > 1:
        x = shard.part(x, scale)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    (vae.decode if case.kind == "decode" else vae.encode)(x, state)
