"""Runs kernels in Triton as they are compiled for another card, on a newer card that is at hand.

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

from wanvae_app.kernels.launch import hooked

GENERATIONS = {"80": "Ampere", "86": "Ampere", "87": "Ampere", "89": "Ada"}  # by compute capability


@contextmanager
def compiled_as(arch: str) -> Iterator[None]:
    """Compile what this thread launches for `arch`, such as "sm_80", and assemble it for the GPU at hand.

    `arch` must not be newer than the GPU. CUDA graphs that were recorded outside the block replay what they recorded,
    so make the VAE inside, with `KernelSet.POINTERS`. Raises ValueError for an unknown `arch`.
    """
    name = f"sm{_number(arch)}"

    def for_arch(kernel: Any, args: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "arch": name}

    with hooked(for_arch), patch.object(CUDABackend, "make_ptx", _make_ptx):
        yield


def label(arch: str, card: str) -> str:
    """Return what times so measured are called, for a `card` such as "NVIDIA H100"."""
    number = _number(arch)
    return f"{GENERATIONS[number]}'s instructions (sm_{number}) on {card}"


def _number(arch: str) -> str:
    found = re.fullmatch(r"sm_?(\d+)", arch)
    if not found or found[1] not in GENERATIONS:
        known = ", ".join(f"sm_{number}" for number in GENERATIONS)
        raise ValueError(f"{arch!r} is no card to compile for; known are {known}.")
    return found[1]


_make_ptx_for_target = CUDABackend.make_ptx


def _make_ptx(self: CUDABackend, src: Any, metadata: Any, opt: Any, capability: int) -> Any:
    """Make PTX for the option `arch`, as all steps before do, where Triton passes the GPU at hand.

    The step behind it assembles for the GPU at hand.
    """
    return _make_ptx_for_target(self, src, metadata, opt, self._parse_arch(opt.arch))
