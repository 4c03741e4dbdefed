"""The benchmark: how fast this machine codes, against one rank, the arithmetic limit and diffusers.

    python -m wanvae_app.bench
    torchrun --nproc-per-node 2 -m wanvae_app.bench --vae wan2.1 --case decode:720x1280x81
    torchrun --nproc-per-node 8 -m wanvae_app.bench --vae wan2.1 --ranks 1,2,4,8
    python -m wanvae_app.bench --vae wan2.1 --project 4,8
    python -m wanvae_app.bench --vae wan2.1 --as sm_80,sm_89
    python -m wanvae_app.bench --report

Timed is what the app does: from latents on the device to uint8 frames in rank 0's (pinned) host memory, chunk
by chunk; for encoding from uint8 frames to latents. Ratios come from one run on one machine. --project estimates
what more ranks would take, from one rank's slab alone. --as measures code paths beside each other. --report prints
one block to paste into an issue.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from wanvae_app.assets import DEMO_VAE
from wanvae_app.bench.beside import HEADINGS, candidates, comparison_rows
from wanvae_app.bench.case import Case
from wanvae_app.bench.diffusers_baseline import diffusers_seconds
from wanvae_app.bench.exchange import exchange_seconds
from wanvae_app.bench.measure import measure
from wanvae_app.bench.projection import project
from wanvae_app.bench.report import report_lines
from wanvae_app.bench.results import Result
from wanvae_app.bench.tables import (
    TIME_HEADINGS,
    projection_table,
    ranks_table,
    table_head,
    table_row,
    time_row,
)
from wanvae_app.bench.timing import matmul_rate
from wanvae_app.bench.weights import make_vae
from wanvae_app.fast.agreement import Agreement, agree, check_alike, summary
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group

GPU_CASES = {
    "wan2.1": ["decode:720x1280x81", "decode:480x832x81", "decode:480x832x9", "decode:480x832x1",
               "encode:720x1280x81", "encode:480x832x81"],
    "wan2.2": ["decode:704x1280x121", "encode:704x1280x121"],
}  # fmt: skip
CPU_CASES = ["decode:240x416x9", "encode:240x416x9"]
EXCHANGE_US = 18.0


def main(argv: list[str] | None = None) -> None:
    """Measure all cases on all chosen numbers of ranks. Raises ValueError for options that cannot work here."""
    args = parse(argv)
    group = Group.join(args.device)
    counts = choose_counts(args.ranks, group.size)
    agreed = agree(group, args.dtype)
    if group.rank == 0:
        for warning in agreed.warnings:
            print(f"Warning: {warning}.", file=sys.stderr)
    if args.report:
        for line in report_lines(group, agreed):
            if group.rank == 0:
                print(line, flush=True)
    else:
        run_cases(args, group, agreed, counts)
    group.close()


def run_cases(args: argparse.Namespace, group: Group, agreed: Agreement, counts: list[int]) -> None:
    """Measure all cases, and print tables or JSON. All ranks call this."""
    dtype = agreed.dtype
    gpu = group.device.type == "cuda"
    sources = [args.vae] if args.vae else list(GPU_CASES) if gpu else [str(DEMO_VAE)]
    rate = matmul_rate(group.device, dtype) if group.rank == 0 else 0.0
    group.agree([0.0])
    measured_exchange = exchange_seconds(group) if args.project else None
    exchange = args.exchange_us / 1e6 if measured_exchange is None else measured_exchange
    prints_tables = group.rank == 0 and not args.json
    if prints_tables:
        name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads per rank"
        precision = str(dtype).removeprefix("torch.")
        print(f"{name}, {precision}, matmul {rate:.3g} TFLOP/s, torch {torch.__version__}")
    paths = (
        [] if args.cards is None else candidates(args.cards, torch.cuda.get_device_name() if gpu else "CPU")
    )
    headings = HEADINGS if paths else TIME_HEADINGS
    results: list[Result] = []
    for source in sources:
        vae = make_vae(source, dtype, group.device, agreed.path)
        check_alike(group, vae)
        if prints_tables:
            print(f"\n{vae.name}: {summary(group, vae)}\n\n{table_head(headings)}", flush=True)
        chunk = args.chunk or vae.default_chunk
        cases = args.case or (GPU_CASES.get(source, GPU_CASES["wan2.1"]) if gpu else CPU_CASES)
        if vae.config.lack and not args.case:
            cases = [text for text in cases if text.startswith("decode") == vae.config.has_decoder]
        for text in cases:
            case = Case.parse(text, vae.config, args.latent)
            if paths:
                with_diffusers = not args.no_diffusers
                for row in comparison_rows(group, vae, case, paths, args.chunk, args.repeat, with_diffusers):
                    if group.rank == 0:
                        print(table_row(row), flush=True)
                continue
            found = measure_counts(group, vae, case, chunk, counts, args.repeat)
            if group.rank == 0:
                one_rank = found[0]
                for result in found:
                    result.limit_share = result.tflop / rate / result.ranks / result.seconds
                if not args.no_diffusers:
                    one_rank.diffusers_seconds = diffusers_seconds(vae, case, min(args.repeat, 2))
                if args.project:
                    one_rank.projections = [
                        project(group, vae, case, chunk, n, args.repeat, exchange, one_rank.seconds)
                        for n in args.project
                    ]
            group.agree([0.0])  # the other ranks wait for rank 0
            results += found
            if prints_tables:  # now, because the next case may take minutes
                print("\n".join(map(time_row, found)), flush=True)
    if prints_tables and group.size > 1:
        print(f"\n{ranks_table(results)}")
    if prints_tables and args.project:
        measured = f"as measured here between {group.size} ranks"
        print(f"\n{projection_table(results, 'as given' if measured_exchange is None else measured)}")
    if group.rank == 0 and args.json:
        print(json.dumps([asdict(result) for result in results], indent=1))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line. Raises ValueError for numbers below 1 and for a file that is not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vae", help="a checkpoint, or wan2.1 / wan2.2 for random weights of that size")
    parser.add_argument(
        "--case", action="append", help="KIND:HEIGHTxWIDTHxFRAMES; may be given several times"
    )
    parser.add_argument(
        "--latent",
        type=Path,
        metavar="FILE",
        help="decode this latent, mirrored or cut to a case's size (default: smooth noise with a video's statistics)",
    )
    parser.add_argument(
        "--chunk",
        type=int,
        help="latent frames per chunk (default: the page's, 2 on the fast path and 1 elsewhere)",
    )
    parser.add_argument("--dtype", default="auto", help="auto, bf16, fp16, fp32, fp64")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--repeat", type=int, default=3, help="warm repetitions; the median counts")
    parser.add_argument(
        "--ranks",
        type=_numbers,
        metavar="N,...",
        help="on how many of the ranks, besides one (default: on all of them)",
    )
    parser.add_argument(
        "--project",
        type=_numbers,
        metavar="N,...",
        default=[],
        help="estimate the time on so many ranks as well, from the slabs of one at the edge and one between others, "
        "each coded alone, and the cost of the exchanges",
    )
    parser.add_argument(
        "--exchange-us",
        type=float,
        default=EXCHANGE_US,
        metavar="US",
        help="microseconds of one exchange of rows, for --project on one rank; several measure it. The default, "
        f"{EXCHANGE_US:g}, was published for 0.98 MB between two H200 over NVLink, inside a CUDA graph",
    )
    parser.add_argument(
        "--as",
        type=_cards,
        dest="cards",
        metavar="CARD,...",
        help="measure code paths beside each other: the plain one, the device's own, and the one for GPUs since "
        'Ampere, compiled as for these cards ("sm_80", "sm_89"; "none" for no such card)',
    )
    parser.add_argument("--no-diffusers", action="store_true", help="do not time diffusers beside it")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument(
        "--report",
        action="store_true",
        help="print one block to paste into an issue: the machine, the code path, a self-test, times and peaks",
    )
    args = parser.parse_args(argv)
    if args.cards is not None and (args.json or args.project):
        raise ValueError("--as prints a table of its own; leave out --json and --project.")
    if args.latent is not None and not args.latent.is_file():
        raise ValueError(f"--latent {args.latent}: there is no such file.")
    if args.repeat < 1 or (args.chunk is not None and args.chunk < 1):
        raise ValueError(f"--chunk {args.chunk} --repeat {args.repeat}: give 1 or more.")
    return args


def choose_counts(asked: list[int] | None, size: int) -> list[int]:
    """The numbers of ranks to measure on: one, and those asked for or else all. Raises ValueError above `size`."""
    counts = sorted({*(asked or [size]), 1})
    if not 1 <= counts[0] <= counts[-1] <= size:
        raise ValueError(f"--ranks {counts[-1]}: there are {size} ranks; start torchrun with more.")
    return counts


def measure_counts(
    group: Group, vae: WanVAE, case: Case, chunk: int, counts: list[int], repeat: int
) -> list[Result]:
    """Measure a case on each number of ranks, the first of which is one, and compare with that."""
    results = [measure(group, vae, case, chunk, count, repeat) for count in counts]
    if group.size > 1:
        for result in results:
            result.compare(results[0])
    return results


def _cards(text: str) -> list[str]:
    """Cards such as "sm_80,sm_89", or "none"."""
    return [] if text == "none" else text.split(",")


def _numbers(text: str) -> list[int]:
    """Numbers of ranks, such as "2,4,8"."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of ranks, such as 4,8")
    return found


if __name__ == "__main__":
    main()
