"""The options of `decode` and `encode`. Needs nothing installed but Python."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from wanvae_app.cli.vae_sources import parse_vae
from wanvae_app.config import DTYPE_NAMES
from wanvae_app.formats.outputs import OUTPUTS

MAX_CHUNK = 16  # latent frames; more only takes memory
MAX_FPS = 240.0
AUTO = "auto"


class FileFormat(NamedTuple):
    """A kind of file that a command writes."""

    suffix: str
    meaning: str  # for --help


class ClipCommand(NamedTuple):
    """`decode` or `encode`: what it reads and what it writes."""

    summary: str
    suffixes: tuple[str, ...]  # of the files that are taken from a folder
    formats: dict[str, FileFormat]  # by the name that --format takes; the first one is the default
    scalings: tuple[str, ...]  # that --scaling takes; the first one is the default, except for ComfyUI
    scaling_help: str


# Results of one input in several formats lie side by side: clip.mp4 and clip-prores.mov.
VIDEO_FORMATS = {
    output.name: FileFormat(
        output.suffix if output.name == "mp4" else f"-{output.name}{output.suffix}", output.label
    )
    for output in OUTPUTS
}

CLIP_COMMANDS = {
    "decode": ClipCommand(
        "decode latents to videos, on all GPUs of this machine",
        (".safetensors", ".latent", ".pt", ".pth", ".npy", ".npz"),
        VIDEO_FORMATS,
        (AUTO, "normalised", "raw"),
        "how the latents are scaled: normalised (diffusers) or raw (ComfyUI); default: what the file says, else what "
        "its values look like",
    ),
    "encode": ClipCommand(
        "encode videos to latents, on all GPUs of this machine",
        (
            *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts"),
            *(".mpg", ".flv", ".wmv", ".ogv", ".gif"),
        ),
        {
            "safetensors": FileFormat(".safetensors", 'one tensor "latent", float32, with its scaling'),
            "comfyui": FileFormat(
                ".latent", "what ComfyUI's LoadLatent reads; its own nodes take raw latents"
            ),
        },
        ("normalised", "raw"),
        "how the latents are written: normalised (as diffusers' pipelines have them; default for safetensors) or raw "
        "(as ComfyUI's own nodes take them; default for comfyui)",
    ),
}


def make_parser(command: str, prog: str) -> argparse.ArgumentParser:
    """Make the parser of `decode` or `encode`; `prog` is what the user called."""
    facts = CLIP_COMMANDS[command]
    kinds = ", ".join(facts.suffixes)
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{facts.summary[:1].upper()}{facts.summary[1:]}.",
        epilog="Results that exist already are left as they are, so the same command again goes on where it was "
        "interrupted. Exit code: 0 if all went well, 1 if a file failed, 2 for wrong options.",
    )
    parser.add_argument(
        "inputs",
        metavar="IN",
        nargs="+",
        help=f"a file, a folder (all {kinds} in it), or a pattern with * or **",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    default, *_ = facts.formats
    meanings = "; ".join(f"{name}: {kind.meaning}" for name, kind in facts.formats.items())
    parser.add_argument(
        "--format", choices=list(facts.formats), default=default, help=f"{meanings} (default {default})"
    )
    parser.add_argument("--vae", metavar="SOURCE", type=parse_vae, help="weights: a file, a diffusers folder or a "
                        "Hugging Face id, also as ID:PATH (default: the demo VAE)")  # fmt: skip
    parser.add_argument(
        "--dtype", default=AUTO, choices=[AUTO, *DTYPE_NAMES],
        help="auto (default: bf16 where the device is made for it), bf16, fp16, fp32 or fp64",
    )  # fmt: skip
    parser.add_argument("--chunk", type=int, metavar="N", help=f"latent frames at a time, 1 to {MAX_CHUNK}")
    parser.add_argument("--scaling", choices=facts.scalings, help=facts.scaling_help)
    if command == "decode":
        parser.add_argument(
            "--fps",
            type=float,
            metavar="N",
            help="frames per second of the video (default: the file's, else the model's, 16 or 24)",
        )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", type=int, metavar="N", help="use N GPUs (default: all there are)")
    where.add_argument("--cpu", type=int, metavar="N", help="use N processes on the CPU")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--each", action="store_true", help="one clip per GPU (default: as many clips as fill all GPUs)"
    )
    how.add_argument("--together", action="store_true", help="all GPUs on one clip, one clip after the other")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist already")
    parser.add_argument("--json", action="store_true", help="one line of JSON per file on stdout")
    parser.add_argument("--check-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)  # for the ranks
    return parser


def parse_clip_options(command: str, argv: list[str], prog: str) -> argparse.Namespace:
    """Parse the command line. Exits with a sentence and code 2 for options that cannot work on any machine."""
    parser = make_parser(command, prog)
    options = parser.parse_args(argv)
    for name in ("gpus", "cpu"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: give 1 or more")
    if options.chunk is not None and not 1 <= options.chunk <= MAX_CHUNK:
        parser.error(f"--chunk {options.chunk}: give 1 to {MAX_CHUNK} latent frames")
    if command == "decode" and options.fps is not None and not 1 <= options.fps <= MAX_FPS:
        parser.error(f"--fps {options.fps:g}: give 1 to {MAX_FPS:g} frames per second")
    if options.scaling is None:
        options.scaling = "raw" if options.format == "comfyui" else CLIP_COMMANDS[command].scalings[0]
    options.command = command
    return options
