"""Runs kernels as they are compiled for another card, on a newer card that is at hand.

An H100 so executes the instructions that an RTX 3090 or an RTX 4090 gets: copies by cp.async and products by mma.sync,
with neither TMA nor wgmma. Results are those of the other card. Times are not: they compare with other times on the
card at hand alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from triton.backends.nvidia.compiler import CUDABackend

from wanvae_app.kernels.capability import compiled_as
from wanvae_app.kernels.launch import hooked

GENERATIONS = {80: "Ampere", 86: "Ampere", 87: "Ampere", 89: "Ada"}  # by compute capability


@contextmanager
def run_as(card: str) -> Iterator[None]:
    """Compile what this thread launches for a card such as "sm_80", and assemble it for the GPU at hand.

    The card must not be newer than the GPU. What a VAE keeps, such as CUDA graphs, was chosen and compiled when it was
    made: make it inside the block, with `KernelSet.POINTERS`. Raises ValueError for an unknown card.
    """
    capability = capability_of_card(card)

    def for_card(kernel: Any, args: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "arch": f"sm{capability}"}

    with compiled_as(capability), hooked(for_card), patch.object(CUDABackend, "make_ptx", _make_ptx):
        yield


def label(card: str, gpu: str) -> str:
    """Return what times so measured on a `gpu` such as "NVIDIA H100" are called."""
    capability = capability_of_card(card)
    return f"{GENERATIONS[capability]}'s instructions (sm_{capability}) on {gpu}"


def capability_of_card(card: str) -> int:
    """Return 80 for "sm_80", and so on. Raises ValueError for a card that is not known."""
    found = re.fullmatch(r"sm_(\d+)", card)
    if not found or int(found[1]) not in GENERATIONS:
        known = ", ".join(f"sm_{number}" for number in GENERATIONS)
        raise ValueError(f"{card!r} is no card to compile for; known are {known}.")
    return int(found[1])


_make_ptx_for_target = CUDABackend.make_ptx


def _make_ptx(self: CUDABackend, src: Any, metadata: Any, opt: Any, capability: int) -> Any:
    """Make PTX for the option `arch`, as all steps before do, where Triton passes the GPU at hand.

    The step behind it assembles for the GPU at hand.
    """
    return _make_ptx_for_target(self, src, metadata, opt, self._parse_arch(opt.arch))
