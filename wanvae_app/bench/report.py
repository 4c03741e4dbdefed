"""The report that owners of cards paste into an issue: the machine, the code path, times, peaks and errors.

    python -m wanvae_app.bench --report
    torchrun --nproc-per-node 2 -m wanvae_app.bench --report

Lines are printed as soon as they are known: where something fails, what came before is worth reading.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from wanvae_app.assets import DEMO_VAE
from wanvae_app.bench.case import Case
from wanvae_app.bench.machine import describe_device, describe_software
from wanvae_app.bench.measure import measure
from wanvae_app.bench.results import Result
from wanvae_app.bench.self_test import Check, check_paths, check_ranks
from wanvae_app.bench.weights import make_vae
from wanvae_app.device import tidy_up
from wanvae_app.errors import describe
from wanvae_app.fast.agreement import Agreement, check_alike, summary
from wanvae_app.fast.choice import usable_kernels, why_no_kernels_take
from wanvae_app.kernels.code_path import PLAIN_NAME, CodePath
from wanvae_app.memory_estimate import Clip, free_bytes, refusal
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group

GPU_CASES = {
    "wan2.1": ["decode:480x832x81", "decode:720x1280x81", "encode:480x832x81"],
    "wan2.2": ["decode:704x1280x41"],
}
CPU_CASES = {str(DEMO_VAE): ["decode:96x160x9", "encode:96x160x9"]}
REPEAT = 2  # warm repetitions
HEADINGS = "| work | ranks | time | frames/s | peak |\n|---|---|---|---|---|"


def report_lines(group: Group, agreed: Agreement) -> Iterator[str]:
    """Make the report, and yield its lines on every rank; rank 0 is to print them. All ranks take all of them."""
    yield "**Report of python -m wanvae_app.bench --report**"
    yield ""
    for text, ranks in _grouped(group.share(describe_device(group.device))):
        yield f"- device of rank {ranks}: {text}"
    yield f"- system: {platform.platform()}"
    yield f"- software: {describe_software()}"
    yield f"- rows travel {_link(group)}"
    cases = GPU_CASES if group.device.type == "cuda" else CPU_CASES
    rows = []
    for source, texts in cases.items():
        vae = make_vae(source, agreed.dtype, group.device, agreed.path)
        check_alike(group, vae)
        yield f"- {vae.name}: {summary(group, vae)}"
        yield from _self_test_lines(group, vae, source)
        for text in texts:
            rows += _measure(group, vae, Case.parse(text, vae.config))
        del vae
        tidy_up(group.device)
    yield ""
    yield HEADINGS
    yield from rows
    yield ""
    yield f"Peaks include weights. Errors are against float32, times the median of {REPEAT} warm runs."


def _self_test_lines(group: Group, vae: WanVAE, source: str) -> Iterator[str]:
    """Yield how each path of each kind of device did, and all ranks together."""
    usable = [] if why_no_kernels_take(vae.dtype) else list(usable_kernels(group.device).kernels)
    try:
        checks = check_paths(partial(_make, source, group.device), vae.dtype, usable)
    except Exception as error:  # the plain path itself fails
        checks = [Check(PLAIN_NAME, None, f"fails: {describe(error)}")]
    tidy_up(group.device)
    found = group.share("; ".join(map(str, checks)))
    for text, ranks in _grouped(found):
        yield f"  - self-test of rank {ranks}: {text}"
    if group.size > 1:
        yield f"  - self-test of {check_ranks(group, vae)}"


def _make(source: str, device: torch.device, dtype: torch.dtype, path: CodePath) -> WanVAE:
    return make_vae(source, dtype, device, path)


def _measure(group: Group, vae: WanVAE, case: Case) -> list[str]:
    """Measure a case on one rank and on all, and return its rows. All ranks call this."""
    rows = []
    for size in sorted({1, group.size}):
        refused = [text for text in group.share(_refusal(group, vae, case, size)) if text]
        if refused:
            rows.append(f"| {case} | {size} | does not fit: {refused[0]} | | |")
            continue
        try:
            rows.append(_row(measure(group, vae, case, vae.default_chunk, size, REPEAT)))
        except Exception as error:
            if group.size > 1:  # the others wait for this rank until it ends
                raise
            rows.append(f"| {case} | {size} | fails: {describe(error)} | | |")
    return rows


def _refusal(group: Group, vae: WanVAE, case: Case, size: int) -> str:
    """Return why this rank's memory is too small for its part of a case; "" if it is not."""
    if group.rank >= size:
        return ""
    vae.release()
    tidy_up(group.device)
    _, _, num_latents, height, width = case.latent_shape(vae.config)
    chunk = vae.default_chunk
    clip = Clip(vae.config, num_latents, height, width, chunk, vae.dtype, group.device, vae.path)
    return refusal(clip, (case.kind,), size, group.rank, free_bytes(group.device))


def _row(result: Result) -> str:
    num_frames = int(result.case.rpartition("x")[2])
    return (
        f"| {result.case} | {result.ranks} | {result.seconds:.3f} s | {num_frames / result.seconds:.1f} | "
        f"{result.peak_gib:.2f} GiB |"
    )


def _link(group: Group) -> str:
    if group.size == 1:
        return "nowhere: there is one rank"
    return "as messages" if group.peer_memory is None else "from memory to memory"


def _grouped(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each different text with the ranks that it is of, as "0, 1"."""
    for text in dict.fromkeys(texts):
        yield text, ", ".join(str(rank) for rank, other in enumerate(texts) if other == text)
