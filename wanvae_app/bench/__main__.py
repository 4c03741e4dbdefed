"""The benchmark: how fast this machine codes, against one rank, the arithmetic limit and diffusers.

    python -m wanvae_app.bench
    torchrun --nproc-per-node 2 -m wanvae_app.bench --vae wan2.1 --case decode:720x1280x81
    torchrun --nproc-per-node 8 -m wanvae_app.bench --vae wan2.1 --ranks 1,2,4,8
    python -m wanvae_app.bench --vae wan2.1 --project 4,8

Timed is what the app does: from latents on the device to uint8 frames in rank 0's (pinned) host memory, chunk
by chunk; for encoding from uint8 frames to latents. Ratios come from one run on one machine. --project estimates
what more ranks would take, from one rank's slab alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import torch

from wanvae_app.assets import DEMO_VAE
from wanvae_app.bench.case import Case
from wanvae_app.bench.diffusers_baseline import diffusers_seconds
from wanvae_app.bench.measure import matmul_rate, measure
from wanvae_app.bench.projection import exchange_seconds, project
from wanvae_app.bench.results import Result
from wanvae_app.bench.tables import COLUMNS, head, projection_table, ranks_table, row
from wanvae_app.config import PRESETS
from wanvae_app.device import choose_dtype
from wanvae_app.fast.choice import build_vae
from wanvae_app.formats.checkpoint import load_vae
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vae", help="a checkpoint, or wan2.1 / wan2.2 for random weights of that size")
    parser.add_argument(
        "--case", action="append", help="KIND:HEIGHTxWIDTHxFRAMES; may be given several times"
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
    parser.add_argument("--no-diffusers", action="store_true", help="do not time diffusers beside it")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    args = parser.parse_args(argv)
    if args.repeat < 1 or (args.chunk is not None and args.chunk < 1):
        raise ValueError(f"--chunk {args.chunk} --repeat {args.repeat}: give 1 or more.")

    group = Group.join(args.device)
    counts = sorted({*(args.ranks or [group.size]), 1})
    if not 1 <= counts[0] <= counts[-1] <= group.size:
        raise ValueError(f"--ranks {counts[-1]}: there are {group.size} ranks; start torchrun with more.")
    dtype = choose_dtype(args.dtype, group.device)
    gpu = group.device.type == "cuda"
    sources = [args.vae] if args.vae else list(GPU_CASES) if gpu else [str(DEMO_VAE)]
    rate = matmul_rate(group.device, dtype) if group.rank == 0 else 0.0
    group.agree([0.0])
    exchange = exchange_seconds(group) if args.project else None
    results: list[Result] = []
    table = group.rank == 0 and not args.json
    if table:
        name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads per rank"
        precision = str(dtype).removeprefix("torch.")
        print(f"{name}, {precision}, matmul {rate:.3g} TFLOP/s, torch {torch.__version__}\n")
        print(head(COLUMNS), flush=True)
    for source in sources:
        vae = _make(source, dtype, group.device)
        chunk = args.chunk or vae.default_chunk
        for text in args.case or (GPU_CASES.get(source, GPU_CASES["wan2.1"]) if gpu else CPU_CASES):
            case = Case.parse(text, vae.config)
            entry = [measure(group, vae, case, chunk, count, args.repeat) for count in counts]
            alone = entry[0]
            for result in entry:
                if group.size > 1:
                    result.compare(alone)
                result.limit_share = (
                    result.tflop / rate / result.ranks / result.seconds if group.rank == 0 else None
                )
            if group.rank == 0 and not args.no_diffusers and vae.config.output_patch == vae.config.patch_size:
                # On a GPU nobody decodes in float32; on a CPU that is what diffusers does unless it is told otherwise.
                dtypes = {
                    str(d).removeprefix("torch."): d for d in ((dtype,) if gpu else (dtype, torch.float32))
                }
                found = {n: diffusers_seconds(vae, case, d, min(args.repeat, 2)) for n, d in dtypes.items()}
                alone.diffusers_seconds = {n: s for n, s in found.items() if s is not None} or None
            if group.rank == 0 and args.project:
                price = args.exchange_us / 1e6 if exchange is None else exchange
                alone.projections = [
                    project(group, vae, case, chunk, n, args.repeat, price, alone.seconds)
                    for n in args.project
                ]
            group.agree([0.0])
            results += entry
            for result in entry if table else ():  # at once: the next case may take minutes
                print(row(result), flush=True)
    if table and group.size > 1:
        print(f"\n{ranks_table(results)}")
    if table and args.project:
        price = "as given" if exchange is None else f"as measured here between {group.size} ranks"
        print(f"\n{projection_table(results, price)}")
    if group.rank == 0 and args.json:
        print(json.dumps([asdict(r) for r in results], indent=1))
    group.close()


def _numbers(text: str) -> list[int]:
    """ "2,4,8" as numbers of ranks."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of ranks, such as 4,8")
    return found


def _make(source: str, dtype: torch.dtype, device: torch.device) -> WanVAE:
    if source not in PRESETS:
        return load_vae(source, dtype, device)
    torch.manual_seed(1)  # the same weights on every rank
    vae = build_vae(PRESETS[source], device, dtype, source)
    return vae.to(device, dtype).requires_grad_(False).channels_last()


if __name__ == "__main__":
    main()
