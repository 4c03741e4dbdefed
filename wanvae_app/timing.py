"""Timing of one piece of work: on some of the ranks, by the arithmetic alone, and by diffusers."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wanvae_app.checkpoint import save_tensors
from wanvae_app.codec import chunk_sizes, decode_chunks, encode_chunks, from_uint8, to_uint8
from wanvae_app.config import WanConfig
from wanvae_app.device import tidy_up
from wanvae_app.group import Group
from wanvae_app.peak import peak_bytes, reset_peak
from wanvae_app.relay import FrameCollector, FrameSender
from wanvae_app.replay import release
from wanvae_app.shard import Shard
from wanvae_app.stream import Stream
from wanvae_app.vae import WanVAE


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
        scale = config.spatial_factor
        num_latents = config.num_latents(self.num_frames)
        return 1, config.z_dim, num_latents, self.height // scale, self.width // scale

    def __str__(self) -> str:
        return f"{self.kind} {self.height}x{self.width}x{self.num_frames}"


@dataclass
class Result:
    """Median seconds of one case on `ranks` ranks."""

    case: str
    ranks: int
    chunk: int
    first_seconds: float  # to the first chunk's frames
    seconds: float
    cold_seconds: float  # the very first time: libraries load, kernels are chosen
    waited_share: float  # of the time, by the rank that waited most for rows
    peak_gib: float  # of the rank that took most; weights included, on the CPU the whole process
    tflop: float
    speedup: float | None = None  # over one rank in the same run
    limit_share: float | None = None  # of the time that the arithmetic alone would take at the matmul rate
    diffusers_seconds: dict[str, float] | None = None  # by dtype, in the same run


def tera_flop(config: WanConfig, case: Case) -> float:
    """The arithmetic of a case in TFLOP, counted by running two chunks without data."""
    with torch.device("meta"):
        vae = WanVAE(config).requires_grad_(False)
    _, channels, num_latents, height, width = case.latent_shape(config)
    stream, counts = Stream(), []
    for index in range(min(2, num_latents)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if case.kind == "decode":
                vae.decode(torch.empty(1, channels, 1, height, width, device="meta"), stream)
            else:
                frames = config.temporal_factor if index else 1
                vae.encode(torch.empty(1, 3, frames, case.height, case.width, device="meta"), stream)
        counts.append(counter.get_total_flops())
    return (counts[0] + counts[-1] * (num_latents - 1)) / 1e12


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product on random data, the best of five."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        _synchronize(device)
        start = time.perf_counter()
        a @ b
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e12


def measure(group: Group, vae: WanVAE, case: Case, chunk: int, size: int, repeat: int) -> Result:
    """Code the case on `size` of the group's ranks, `repeat` times after a cold one."""
    config, device = vae.config, group.device
    shape = case.latent_shape(config)
    shard = Shard.plan(*shape[3:], size, group.rank, group.data, group.link)
    if group.link is not None and size > 1:
        group.link.reserve(group, config, (chunk, *shape[3:]), vae.dtype)
    sizes = chunk_sizes(shape[2], min(chunk, shape[2]))
    torch.manual_seed(0)  # the same clip on every rank
    if case.kind == "decode":
        clip, scale = torch.randn(shape).to(device, vae.dtype), 1
    else:
        sizes = [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]
        pixels = torch.randint(0, 256, (case.num_frames, case.height, case.width, 3), dtype=torch.uint8)
        clip, scale = pixels.to(device), config.spatial_factor

    def work() -> tuple[float, float]:
        assert shard is not None
        first: list[float] = []
        arrived = lambda _: first.append(time.perf_counter())  # noqa: E731
        if case.kind == "decode":
            chunks = decode_chunks(vae, shard.part(clip, scale).split(sizes, 2), shard)
            outbox = FrameCollector(group, shard, arrived) if group.rank == 0 else FrameSender(group)
            for frames in chunks:
                outbox.put(to_uint8(frames))
            outbox.finish()
        else:
            mine = clip.narrow(shard.dim - 2, shard.cuts[shard.rank] * scale, _rows(shard) * scale)
            for _ in encode_chunks(vae, (from_uint8(x, vae.dtype) for x in mine.split(sizes)), shard):
                _synchronize(device)
                arrived(None)
        _synchronize(device)
        return (first or [0.0])[0], time.perf_counter()

    times, waits = [], []
    release(vae)
    tidy_up(device)
    reset_peak(device)
    for _ in range(repeat + 1):
        _synchronize(device)
        group.agree([0.0])
        waited = shard.seconds_waited if shard is not None else 0.0
        start = time.perf_counter()
        first, end = work() if shard is not None else (start, start)
        reports = group.agree([end - start, (shard.seconds_waited - waited) if shard is not None else 0.0])
        times.append((first - start, max(seconds for seconds, _ in reports)))
        waits.append(max(wait for _, wait in reports))
    peak = max(report[0] for report in group.agree([float(peak_bytes(device))]))
    warm = times[1:]
    seconds = statistics.median(t for _, t in warm)
    return Result(
        case=str(case),
        ranks=shard.num_ranks if shard is not None else min(size, group.size),
        chunk=chunk,
        first_seconds=statistics.median(t for t, _ in warm),
        seconds=seconds,
        cold_seconds=times[0][1],
        waited_share=statistics.median(waits[1:]) / seconds,
        peak_gib=peak / 2**30,
        tflop=tera_flop(config, case),
    )


def diffusers_seconds(vae: WanVAE, case: Case, dtype: torch.dtype, repeat: int) -> float | None:
    """Median seconds of diffusers with the same weights; None where it is not installed."""
    try:
        from diffusers import AutoencoderKLWan
        from diffusers.utils import logging
    except ImportError:
        return None
    logging.set_verbosity_error()
    c = vae.config
    channels = 3 * c.patch_size**2
    theirs: Any = AutoencoderKLWan(
        base_dim=c.base_dim,
        decoder_base_dim=c.decoder_base_dim,
        z_dim=c.z_dim,
        dim_mult=list(c.dim_mult),
        num_res_blocks=c.num_res_blocks,
        temperal_downsample=list(c.temporal_downsample),
        latents_mean=list(c.latents_mean),
        latents_std=list(c.latents_std),
        is_residual=c.residual,
        in_channels=channels,
        out_channels=channels,
        patch_size=c.patch_size if c.patch_size > 1 else None,
    )
    theirs.load_state_dict(save_tensors(vae, "diffusers"))
    theirs = theirs.to(vae.device, dtype).eval()
    step: Callable[[Tensor], Any] = theirs.decode if case.kind == "decode" else theirs.encode
    shape = (
        case.latent_shape(c) if case.kind == "decode" else (1, 3, case.num_frames, case.height, case.width)
    )
    x = torch.randn(shape).to(vae.device, dtype)
    times = []
    with torch.inference_mode():
        for _ in range(repeat + 1):
            _synchronize(vae.device)
            start = time.perf_counter()
            step(x)
            _synchronize(vae.device)
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _rows(shard: Shard) -> int:
    return shard.cuts[shard.rank + 1] - shard.cuts[shard.rank]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
