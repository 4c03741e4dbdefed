"""Measures one case on some of the ranks: how long it takes, and where each rank's time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wanvae_app.bench.case import Case
from wanvae_app.bench.clips import make_latent, make_video
from wanvae_app.bench.cost import count_tflop, count_traffic
from wanvae_app.bench.power import power_log
from wanvae_app.bench.results import Result
from wanvae_app.bench.timing import Marks, synchronize
from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.device import peak_bytes, reset_peak, tidy_up
from wanvae_app.model.pixels import from_uint8
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.frame_gather import FrameCollector, FrameSender
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard


class RunReport(NamedTuple):
    """One rank's account of one run; zeros from a rank without a part."""

    seconds: float = 0.0
    first_seconds: float = 0.0  # until the first chunk was there
    waited_seconds: float = 0.0  # for other ranks' rows and tokens
    gathered_seconds: float = 0.0  # see `Result.gathering`
    sent_bytes: float = 0.0  # rows and tokens
    frame_bytes: float = 0.0  # finished pixels, to rank 0


def measure(group: Group, vae: WanVAE, case: Case, chunk: int, size: int, repeat: int) -> Result:
    """Code the case on `size` of the group's ranks, once cold and `repeat` times warm. All ranks call this."""
    config, device = vae.config, group.device
    *_, height, width = case.latent_shape(config)
    shard = Shard.plan(height, width, size, group.rank, group.data, group.peer_memory)
    if group.peer_memory is not None and size > 1:
        group.peer_memory.reserve_tokens(config, (chunk, height, width), vae.dtype)
    code_clip = clip_coder(vae, case, chunk, shard) if shard is not None else None
    runs: list[list[RunReport]] = []  # by rank
    vae.release()
    tidy_up(device)
    reset_peak(device)

    def run() -> None:
        synchronize(device)
        group.agree([0.0])
        mine = RunReport()
        if shard is not None and code_clip is not None:
            mine = _run(group, case, shard, code_clip)
        runs.append([RunReport(*report) for report in group.agree(mine)])

    run()  # cold
    with power_log(device) as power:
        for _ in range(repeat):
            run()
    peaks = [peak for (peak,) in group.agree([float(peak_bytes(device))])]
    least = 0.0
    if shard is not None:
        least = float(sum(t.num_bytes for t in count_traffic(config, case, chunk, shard, vae.dtype)))
    least_bytes = [num_bytes for (num_bytes,) in group.agree([least])]
    first = Shard.plan(height, width, size, 0)
    assert first is not None
    runs = [run[: first.num_ranks] for run in runs]  # a small picture leaves ranks without a part
    peaks, least_bytes = peaks[: first.num_ranks], least_bytes[: first.num_ranks]
    result = _summarize(
        case, chunk, len(case.sizes(config, chunk)), runs, peaks, least_bytes, count_tflop(config, case)
    )
    result.path, result.path_reason = vae.path.name, vae.path.reason
    result.watts, result.megahertz = power.mean_watts, power.mean_megahertz
    return result


def clip_coder(vae: WanVAE, case: Case, chunk: int, shard: Shard) -> Callable[[], Iterator[Tensor]]:
    """A function that codes this rank's part of the case's clip each time it is called, and yields its chunks.

    Decoded chunks are uint8 pixels [T, h, w, 3], encoded ones latents [1, C, T, h, w].
    """
    config, sizes = vae.config, case.sizes(vae.config, chunk)
    if case.kind == "decode":
        latents = shard.part(make_latent(case, config)).to(vae.device, vae.dtype)
        return lambda: map(vae.to_uint8, decode_chunks(vae, torch.split(latents, sizes, 2), shard))
    pixels = make_video(case, config.in_channels)
    pixels = shard.part(pixels, config.spatial_factor, shard.dim - 2).to(vae.device)
    return lambda: encode_chunks(vae, (from_uint8(x, vae.dtype) for x in torch.split(pixels, sizes)), shard)


def _run(group: Group, case: Case, shard: Shard, code_clip: Callable[[], Iterator[Tensor]]) -> RunReport:
    """Code the clip once on this rank, as a job does: decoded frames go to rank 0's host."""
    frame_bytes = 0.0
    arrivals: list[float] = []  # seconds after the start, of each chunk
    waited, sent = shard.seconds_waited, shard.sent_bytes
    start = time.perf_counter()

    def note_arrival(_: object) -> None:
        arrivals.append(time.perf_counter() - start)

    marks = Marks(group.device)
    if case.kind == "decode":
        outbox = FrameCollector(group, shard, note_arrival) if group.rank == 0 else FrameSender(group)
        for pixels in code_clip():
            frame_bytes += pixels.nbytes if group.rank else 0
            marks.set()
            outbox.put(pixels)
            marks.set()
        outbox.finish()
    else:
        for _ in code_clip():
            synchronize(group.device)
            note_arrival(None)
    synchronize(group.device)
    seconds = time.perf_counter() - start
    return RunReport(
        seconds=seconds,
        first_seconds=arrivals[0] if arrivals else 0.0,
        waited_seconds=shard.seconds_waited - waited,
        gathered_seconds=_gathered(marks.seconds(), seconds),
        sent_bytes=shard.sent_bytes - sent,
        frame_bytes=frame_bytes,
    )


def _gathered(moments: Sequence[float], end: float) -> float:
    """Seconds in the earlier puts, and from the last put on until `end`. `moments` are before and after each put."""
    if not moments:
        return 0.0
    *earlier, last_put = moments[::2]
    return end - last_put + sum(done - put for put, done in zip(earlier, moments[1::2], strict=False))


def _summarize(
    case: Case,
    chunk: int,
    num_chunks: int,
    runs: Sequence[Sequence[RunReport]],
    peaks: Sequence[float],
    least_bytes: Sequence[float],
    tflop: float,
) -> Result:
    """The result of `runs`, the first of them cold. All sequences within are by rank."""
    cold, *warm = runs
    warm.sort(key=_seconds)
    median = warm[(len(warm) - 1) // 2]
    seconds = _seconds(median)
    waiting = [report.waited_seconds / seconds for report in median]
    return Result(
        case=str(case),
        ranks=len(median),
        chunk=chunk,
        first_seconds=statistics.median(rank_0.first_seconds for rank_0, *_ in warm),
        seconds=statistics.median(map(_seconds, warm)),
        cold_seconds=_seconds(cold),
        waited_share=max(waiting),
        waiting=waiting,
        gathering=[report.gathered_seconds / seconds for report in median],
        idle=[1 - report.seconds / seconds for report in median],
        sent_bytes=[report.sent_bytes / num_chunks for report in median],
        least_bytes=[num_bytes / num_chunks for num_bytes in least_bytes],
        frame_bytes=[report.frame_bytes / num_chunks for report in median],
        peak_gib=max(peaks) / 2**30,
        peaks_gib=[peak / 2**30 for peak in peaks],
        tflop=tflop,
    )


def _seconds(run: Sequence[RunReport]) -> float:
    """Seconds of the slowest rank."""
    return max(report.seconds for report in run)
