"""Timing of one piece of work: on some of the ranks, and where their time went."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from wanvae_app.bench.case import Case, count_traffic, tera_flop
from wanvae_app.bench.results import Result
from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.device import peak_bytes, reset_peak, tidy_up
from wanvae_app.model.pixels import from_uint8
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.gather import FrameCollector, FrameSender, slab
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard


class Marks:
    """Moments in a device's work. A GPU's are events, read once it is done: to look at the clock slows nothing."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._marks: list[Any] = []
        self.set()

    def set(self) -> None:
        """Now, or when the device has done what it was given so far."""
        if self._gpu:
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """From the first mark to each of the others; the device must have passed them."""
        first, *others = self._marks
        return [first.elapsed_time(mark) / 1e3 if self._gpu else mark - first for mark in others]


@dataclass
class _Report:
    """One rank's account of one run, as it goes around."""

    seconds: float = 0.0
    first: float = 0.0
    waited: float = 0.0
    gathered: float = 0.0
    sent: float = 0.0
    frame_bytes: float = 0.0


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product on random data, the best of five."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e12


def coded(vae: WanVAE, case: Case, chunk: int, shard: Shard) -> Callable[[], Iterator[Tensor]]:
    """What codes this rank's part of a clip of noise, chunk by chunk, as often as it is called; a decoder's chunks
    are uint8 pixels [T, h, w, 3]."""
    config, sizes = vae.config, case.sizes(vae.config, chunk)
    torch.manual_seed(0)  # the same clip on every rank
    if case.kind == "decode":
        latents = shard.part(torch.randn(case.latent_shape(config))).to(vae.device, vae.dtype)
        return lambda: map(vae.to_uint8, decode_chunks(vae, latents.split(sizes, 2), shard))
    pixels = torch.randint(0, 256, (case.num_frames, case.height, case.width, 3), dtype=torch.uint8)
    pixels = slab(pixels, shard, shard.rank, shard.dim - 2, config.spatial_factor).to(vae.device)
    return lambda: encode_chunks(vae, (from_uint8(x, vae.dtype) for x in pixels.split(sizes)), shard)


def measure(group: Group, vae: WanVAE, case: Case, chunk: int, size: int, repeat: int) -> Result:
    """Code the case on `size` of the group's ranks, `repeat` times after a cold one. All ranks take part."""
    config, device = vae.config, group.device
    height, width = case.latent_shape(config)[3:]
    shard = Shard.plan(height, width, size, group.rank, group.data, group.peer_memory)
    if group.peer_memory is not None and size > 1:
        group.peer_memory.reserve(group.agree, config, (chunk, height, width), vae.dtype)
    chunks = coded(vae, case, chunk, shard) if shard is not None else None
    runs = []
    vae.release()
    tidy_up(device)
    reset_peak(device)
    for _ in range(repeat + 1):
        synchronize(device)
        group.agree([0.0])
        mine = _Report()
        if shard is not None and chunks is not None:
            mine = _run(group, case, shard, chunks)
        runs.append([_Report(*report) for report in group.agree(astuple(mine))])
    peaks = group.agree([float(peak_bytes(device))])
    least = 0.0
    if shard is not None:
        least = float(sum(t.num_bytes for t in count_traffic(config, case, chunk, shard, vae.dtype)))
    leasts = group.agree([least])
    first = Shard.plan(height, width, size, 0)
    assert first is not None
    num_ranks, num_chunks = first.num_ranks, len(case.sizes(config, chunk))
    runs, peaks, leasts = [run[:num_ranks] for run in runs], peaks[:num_ranks], leasts[:num_ranks]
    warm = sorted(runs[1:], key=_seconds)
    median = warm[(len(warm) - 1) // 2]
    seconds = _seconds(median)
    waiting = [report.waited / seconds for report in median]
    return Result(
        case=str(case),
        ranks=num_ranks,
        chunk=chunk,
        first_seconds=statistics.median(run[0].first for run in warm),
        seconds=statistics.median(map(_seconds, warm)),
        cold_seconds=_seconds(runs[0]),
        waited_share=max(waiting),
        waiting=waiting,
        gathering=[report.gathered / seconds for report in median],
        idle=[1 - report.seconds / seconds for report in median],
        sent_bytes=[report.sent / num_chunks for report in median],
        least_bytes=[num_bytes / num_chunks for (num_bytes,) in leasts],
        frame_bytes=[report.frame_bytes / num_chunks for report in median],
        peak_gib=max(peak for (peak,) in peaks) / 2**30,
        peaks_gib=[peak / 2**30 for (peak,) in peaks],
        tflop=tera_flop(config, case),
    )


def _run(group: Group, case: Case, shard: Shard, chunks: Callable[[], Iterator[Tensor]]) -> _Report:
    """Code the clip once, on this rank."""
    report, first = _Report(), [0.0]
    waited, sent = shard.seconds_waited, shard.sent
    start = time.perf_counter()

    def arrived(_: object) -> None:
        first[0] = first[0] or time.perf_counter() - start

    marks = Marks(group.device)
    if case.kind == "decode":
        outbox = FrameCollector(group, shard, arrived) if group.rank == 0 else FrameSender(group)
        for pixels in chunks():
            report.frame_bytes += pixels.nbytes if group.rank else 0
            marks.set()
            outbox.put(pixels)
            marks.set()
        outbox.finish()
    else:
        for _ in chunks():
            synchronize(group.device)
            arrived(None)
    synchronize(group.device)
    report.seconds, report.first = time.perf_counter() - start, first[0]
    passed = marks.seconds()
    if passed:
        *puts, last = zip(passed[::2], passed[1::2], strict=True)
        report.gathered = report.seconds - last[0] + sum(end - begin for begin, end in puts)
    report.waited, report.sent = shard.seconds_waited - waited, shard.sent - sent
    return report


def _seconds(run: list[_Report]) -> float:
    return max(report.seconds for report in run)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
