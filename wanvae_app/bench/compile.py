"""Compiles the kernels for every card that they are meant for, with no GPU, and checks that they fit there.

    python -m wanvae_app.bench.compile                        # a representative part, in minutes
    python -m wanvae_app.bench.compile --all                  # every kernel for every card
    python -m wanvae_app.bench.compile --all --card 8.6 --kernel conv_kernel --table

Which kernels those are is found by coding clips of Wan 2.1 and 2.2 on tensors without data: decoding and encoding, at
480, 720 and 1080 rows and in portrait, in chunks of 1 and 2 latent frames, on one rank and as one of several. The exit
status is 1 if a kernel does not compile, does not fit into a card's shared memory, or spills registers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from typing import NamedTuple

import torch
from triton import knobs

from wanvae_app.bench.assembly import SHARED_BYTES, Assembly, assemble, target_of
from wanvae_app.bench.cuda_assembly import assemble_cuda, find_nvrtc
from wanvae_app.bench.launches import Compilation, Compilations, CudaCompilation, Part, Scene, note_launches
from wanvae_app.config import PRESETS
from wanvae_app.fast.choice import cards_of
from wanvae_app.fast.vae import FastVAE
from wanvae_app.kernels.capability import compiled_as

# Cards, as compute capabilities, in families that are compiled alike.
FAMILIES = (((8, 0), (8, 6), (8, 9)), ((12, 0),), ((9, 0),), ((10, 0),))
SIZES = {"wan2.1": ((480, 832), (720, 1280), (1088, 1920)), "wan2.2": ((480, 832), (704, 1280), (1088, 1920))}
PORTRAIT = (832, 480)  # is cut along its rows
PARTS = (Part(), Part(2, 0), Part(2, 1), Part(3, 1), Part(2, 0, False), Part(2, 1, False))
CHANNELS = ("C", "N")  # constants of kernels that count channels


Needed = Compilation | CudaCompilation


class Task(NamedTuple):
    """A compilation, and the card that it is for."""

    compilation: Needed
    capability: tuple[int, int]


_tasks: list[Task] = []  # set before worker processes are forked: a kernel cannot be sent to them


def main(argv: list[str] | None = None) -> int:
    """Compile, print what each kernel needs, and return the exit status."""
    args = parse(argv)
    if knobs.runtime.interpret:
        raise ValueError("TRITON_INTERPRET is set; unset it: interpreted kernels cannot be compiled.")
    if args.language != "triton" and find_nvrtc() is None:
        raise ValueError("There is no NVRTC: pip install nvidia-cuda-nvrtc, or give --language triton.")
    tasks = choose_tasks(args)
    print(f"{len(tasks)} kernels to compile", flush=True)
    found = []
    for assembly in assemble_all(tasks, args.processes):
        found.append(assembly)
        if assembly.fault:
            print(f"FAULT: {assembly} {assembly.fault}", flush=True)
    found.sort(key=lambda a: (a.kernel, a.capability, str(a)))
    print("\n".join(every_kernel(found) if args.table else by_kernel_and_card(found)))
    spilling = [a for a in found if a.spill and not a.fault]
    print(*(f"spills {a.spill} bytes: {a}" for a in spilling), sep="\n")
    num_faults = sum(bool(a.fault) for a in found)
    print(f"{num_faults} of {len(found)} do not fit")
    return 1 if num_faults or not found else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--all", action="store_true", help="every kernel for every card, in a quarter of an hour"
    )
    parser.add_argument(
        "--card", type=_capabilities, metavar="X.Y,...", help="compute capabilities (default: all)"
    )
    parser.add_argument("--kernel", help="only kernels of this name")
    parser.add_argument(
        "--language", choices=("triton", "cuda"), help="only kernels in Triton, or in CUDA C++"
    )
    parser.add_argument("--table", action="store_true", help="a row for each compilation")
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="compilations at a time"
    )
    return parser.parse_args(argv)


def choose_tasks(args: argparse.Namespace) -> list[Task]:
    """Return what to compile. Without --all the cards of a family share its representative compilations."""
    tasks = []
    for cards in FAMILIES:
        for i, card in enumerate(cards):
            if args.card is not None and card not in args.card:
                continue
            found = needed(card, args.all)
            if not args.all:
                found = representative(found)[i :: len(cards)]
            tasks += [Task(compilation, card) for compilation in found]
    return [
        task
        for task in tasks
        if args.kernel in (None, task.compilation.name)
        and args.language in (None, "cuda" if isinstance(task.compilation, CudaCompilation) else "triton")
    ]


def needed(capability: tuple[int, int], everything: bool) -> list[Needed]:
    """Return every compilation that clips need on a card, each once.

    Without `everything` it is what fewer clips need, with the set of kernels that is the card's best.
    """
    row = cards_of(capability)
    assert row is not None, capability
    kernel_sets = row.kernels if everything else row.kernels[:1]
    compilations = Compilations(target_of(capability))
    with compiled_as(10 * capability[0] + capability[1]):
        for kernel_set, (name, config) in product(kernel_sets, PRESETS.items()):
            with torch.device("meta"):
                vae = FastVAE(config, name, kernel_set).to(torch.bfloat16).requires_grad_(False)
            views = list(product((*SIZES[name], PORTRAIT), PARTS))
            if not everything:
                views = [(SIZES[name][1], Part()), (SIZES[name][1], Part(2, 0)), (PORTRAIT, Part(3, 1))]
            for phase, (size, part), chunk in product(("decode", "encode"), views, (1, 2)):
                note_launches(vae, Scene(phase, size, chunk, part), compilations)
    return list(compilations.found.values())


def representative(compilations: Iterable[Needed]) -> list[Needed]:
    """Return so many of the compilations that every value of every parameter of a kernel occurs, the largest first.

    Numbers of channels do not count as parameters here: they decide little of what a program needs.
    """
    chosen: list[Needed] = []
    seen: dict[str, set[tuple[str, str]]] = {}
    for compilation in sorted(compilations, key=_size, reverse=True):
        parameters = compilation.parameters().items()
        values = {(name, str(value)) for name, value in parameters if name not in CHANNELS}
        known = seen.setdefault(compilation.name, set())
        if not known or values - known:
            chosen.append(compilation)
            known |= values or {("", "")}
    return chosen


def _size(compilation: Needed) -> float:
    """Return a number that is larger for a compilation with more channels and larger tiles."""
    return sum(value for value in compilation.parameters().values() if isinstance(value, int | float))


def assemble_all(tasks: list[Task], num_processes: int) -> Iterator[Assembly]:
    """Yield what each task needs, as it is found."""
    global _tasks
    _tasks = tasks
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_processes, context) as pool:
        for future in as_completed([pool.submit(_assemble, i) for i in range(len(tasks))]):
            yield future.result()


def _assemble(index: int) -> Assembly:
    compilation, capability = _tasks[index]
    if isinstance(compilation, CudaCompilation):
        return assemble_cuda(compilation, capability)
    return assemble(compilation, capability)


def every_kernel(found: Iterable[Assembly]) -> Iterator[str]:
    """Yield the rows of a table of all compilations."""
    yield "| kernel | shared memory | registers | spilled | instructions |"
    yield "|---|---|---|---|---|"
    for a in found:
        yield f"| {a} | {a.shared / 1024:.1f} KiB | {a.registers} | {a.spill} | {_counts(a.instructions)} |"


def by_kernel_and_card(found: Iterable[Assembly]) -> Iterator[str]:
    """Yield the rows of a table with the most that any compilation of a kernel needs on a card."""
    yield "| kernel | card | compiled | shared memory | registers | spilled | instructions |"
    yield "|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, tuple[int, int]], list[Assembly]] = {}
    for a in found:
        groups.setdefault((a.kernel, a.capability), []).append(a)
    for (kernel, capability), group in groups.items():
        kinds = sorted({name for a in group for name in a.instructions})
        shared, limit = max(a.shared for a in group) / 1024, SHARED_BYTES[capability] >> 10
        yield (
            f"| {kernel} | {capability[0]}.{capability[1]} | {len(group)} | {shared:.1f} of {limit} KiB "
            f"| {max(a.registers for a in group)} | {max(a.spill for a in group)} | {', '.join(kinds)} |"
        )


def _counts(instructions: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in instructions.items())


def _capabilities(text: str) -> list[tuple[int, int]]:
    """Compute capabilities, such as "8.0,8.6"."""
    known = {f"{major}.{minor}": (major, minor) for cards in FAMILIES for major, minor in cards}
    parts = text.split(",")
    if not set(parts) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r}: known compute capabilities are {', '.join(known)}")
    return [known[part] for part in parts]


if __name__ == "__main__":
    sys.exit(main())
