"""The benchmark: how fast this machine codes, against one rank, the arithmetic limit and diffusers.

    python -m wanvae_app.bench
    torchrun --nproc-per-node 2 -m wanvae_app.bench --vae wan2.1 --case decode:720x1280x81

Timed is what the app does: from latents on the device to uint8 frames in rank 0's (pinned) host memory, chunk
by chunk; for encoding from uint8 frames to latents. Ratios come from one run on one machine.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from wanvae_app.checkpoint import choose_dtype, load_vae
from wanvae_app.config import PRESETS
from wanvae_app.group import Group
from wanvae_app.timing import Case, Result, diffusers_seconds, matmul_rate, measure
from wanvae_app.vae import WanVAE

DEMO = Path(__file__).parent.parent / "assets" / "demo_vae"
GPU_CASES = {
    "wan2.1": ["decode:720x1280x81", "decode:480x832x81", "decode:480x832x9", "decode:480x832x1",
               "encode:720x1280x81", "encode:480x832x81"],
    "wan2.2": ["decode:704x1280x121", "encode:704x1280x121"],
}  # fmt: skip
CPU_CASES = ["decode:240x416x9", "encode:240x416x9"]


COLUMNS = (
    *("work", "ranks", "chunk", "first frames", "all", "cold", "frames/s", "speed-up", "waiting", "peak"),
    *("of limit", "diffusers"),
)


def row(r: Result) -> str:
    """One line of the Markdown table."""
    cells = [
        r.case,
        r.ranks,
        r.chunk,
        f"{r.first_seconds:.3f} s",
        f"{r.seconds:.3f} s",
        f"{r.cold_seconds:.2f} s",
    ]
    cells += [f"{int(r.case.rpartition('x')[2]) / r.seconds:.1f}"]
    cells += [
        "" if r.speedup is None else f"{r.speedup:.2f}x",
        f"{r.waited_share:.0%}",
        f"{r.peak_gib:.2f} GiB",
    ]
    cells += ["" if r.limit_share is None else f"{r.limit_share:.0%}"]
    theirs = (r.diffusers_seconds or {}).items()
    cells += [", ".join(f"{name} {seconds:.2f} s ({seconds / r.seconds:.1f}x)" for name, seconds in theirs)]
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vae", help="a checkpoint, or wan2.1 / wan2.2 for random weights of that size")
    parser.add_argument(
        "--case", action="append", help="KIND:HEIGHTxWIDTHxFRAMES; may be given several times"
    )
    parser.add_argument("--chunk", type=int, default=1, help="latent frames per chunk (default 1)")
    parser.add_argument("--dtype", default="auto", help="auto, bf16, fp16, fp32, fp64")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--repeat", type=int, default=3, help="warm repetitions; the median counts")
    parser.add_argument("--no-diffusers", action="store_true", help="do not time diffusers beside it")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    args = parser.parse_args(argv)

    group = Group.join(args.device)
    dtype = choose_dtype(args.dtype, group.device)
    gpu = group.device.type == "cuda"
    sources = [args.vae] if args.vae else list(GPU_CASES) if gpu else [str(DEMO)]
    rate = matmul_rate(group.device, dtype) if group.rank == 0 else 0.0
    group.agree([0.0])
    results: list[Result] = []
    table = group.rank == 0 and not args.json
    if table:
        name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads per rank"
        precision = str(dtype).removeprefix("torch.")
        print(f"{name}, {precision}, matmul {rate:.3g} TFLOP/s, torch {torch.__version__}\n")
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for source in sources:
        vae = _make(source, dtype, group.device)
        for text in args.case or (GPU_CASES.get(source, GPU_CASES["wan2.1"]) if gpu else CPU_CASES):
            case = Case.parse(text, vae.config)
            alone = measure(group, vae, case, args.chunk, 1, args.repeat)
            entry = [alone] if group.size == 1 else [alone, measure(group, vae, case, args.chunk, group.size,
                                                                    args.repeat)]  # fmt: skip
            for result in entry:
                result.speedup = alone.seconds / result.seconds if group.size > 1 else None
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
            group.agree([0.0])
            results += entry
            for result in entry if table else ():  # at once: the next case may take minutes
                print(row(result), flush=True)
    if group.rank == 0 and args.json:
        print(json.dumps([asdict(r) for r in results], indent=1))
    group.close()


def _make(source: str, dtype: torch.dtype, device: torch.device) -> WanVAE:
    if source not in PRESETS:
        return load_vae(source, dtype, device)
    torch.manual_seed(1)  # the same weights on every rank
    return WanVAE(PRESETS[source], source).to(device, dtype).requires_grad_(False).channels_last()


if __name__ == "__main__":
    main()
