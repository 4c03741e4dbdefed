"""Assembles kernels in Triton for cards that are not at hand, and reads what each program needs there.

Triton's wheel brings NVIDIA's assembler, so this takes no GPU.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any, NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from wanvae_app.bench.launches import Compilation
from wanvae_app.kernels.capability import SHARED_KIB, shared_bytes

MAX_SPILL = 32  # bytes of a thread that may lie in memory in place of registers
TENSOR_MEMORY = 512  # columns that a multiprocessor has, from compute capability 10 on
# Compute capability; below, Triton rewrites tensor descriptors into slow loads.
FIRST_WITH_DESCRIPTORS = 9, 0
# Bytes of shared memory that a program can have, by compute capability: without the 1 KiB that the driver keeps.
SHARED_BYTES = {divmod(number, 10): shared_bytes(number) - 1024 for number in SHARED_KIB}
INSTRUCTIONS = {
    "cp.async": r"\bcp\.async\.c[ag]\.",
    "TMA": r"\bcp\.async\.bulk\.tensor",
    "mma.sync": r"\bmma\.sync",
    "wgmma": r"\bwgmma\.mma_async",
    "tcgen05": r"\btcgen05\.mma",
}


# Kernels that may spill more, in bytes: their tiles were chosen by time on an H100, spills included.
ALLOWED_SPILLS = {
    ("conv_kernel", (9, 0)): 800,
    ("conv_kernel", (10, 0)): 800,
    ("upsample_conv", (9, 0)): 160,
}


class Assembly(NamedTuple):
    """What one compilation of a kernel needs on a card."""

    kernel: str
    parameters: dict[str, Any]  # of `Compilation.parameters`
    capability: tuple[int, int]
    shared: int = 0  # bytes of a program
    registers: int = 0  # of a thread
    spill: int = 0  # bytes of a thread that lie in memory
    instructions: dict[str, int] = {}  # names of INSTRUCTIONS: how many there are
    fault: str = ""  # why it cannot run on the card, or should not; "" if it can

    def __str__(self) -> str:
        parameters = " ".join(f"{name}={_text(value)}" for name, value in self.parameters.items() if value)
        return f"{self.kernel} {parameters} on {self.capability[0]}.{self.capability[1]}"


def target_of(capability: tuple[int, int]) -> GPUTarget:
    """Return what Triton compiles for."""
    return GPUTarget("cuda", 10 * capability[0] + capability[1], 32)


def assemble(compilation: Compilation, capability: tuple[int, int]) -> Assembly:
    """Compile a kernel for a card of SHARED_BYTES, and judge what comes out. Takes a second or a few."""
    found = Assembly(compilation.name, compilation.parameters(), capability)
    source = ASTSource(
        compilation.kernel, compilation.signature, compilation.constants, compilation.attributes
    )
    log = io.StringIO()
    try:
        with knobs.compilation.scope(), knobs.nvidia.scope(), contextlib.redirect_stdout(log):
            knobs.compilation.always_compile = True  # what Triton keeps on disk has no log
            knobs.nvidia.dump_ptxas_log = True
            made = triton.compile(source, target=target_of(capability), options=compilation.options)
    except Exception as error:  # the compiler and the assembler raise anything
        return found._replace(fault=f"does not compile: {' '.join(str(error).split())[-300:]}")
    found = found._replace(
        shared=made.metadata.shared,
        registers=_number(r"Used (\d+) registers", log.getvalue()),
        spill=max(
            _number(rf"(\d+) bytes {kind}", log.getvalue())
            for kind in ("stack frame", "spill stores", "spill loads")
        ),
        instructions={
            name: count
            for name, pattern in INSTRUCTIONS.items()
            if (count := len(re.findall(pattern, made.asm["ptx"])))
        },
    )
    if capability < FIRST_WITH_DESCRIPTORS and "tensordesc" in str(compilation.signature):
        return found._replace(fault="takes tensor descriptors, which the card does not have")
    if (tensor_memory := made.metadata.tmem_size or 0) > TENSOR_MEMORY:
        fault = f"takes {tensor_memory} columns of tensor memory, and the card has {TENSOR_MEMORY}"
        return found._replace(fault=fault)
    return judged(found)


def judged(found: Assembly, blocks: int = 1) -> Assembly:
    """Set the fault if the card has too little for `blocks` on a multiprocessor at a time, or too much is spilled."""
    limit = (SHARED_BYTES[found.capability] + 1024) // blocks - 1024
    if found.shared > limit:
        many = f", {blocks} times on a multiprocessor" if blocks > 1 else ""
        fault = f"takes {found.shared / 1024:.1f} KiB of shared memory{many}, and the card has {limit >> 10}"
        return found._replace(fault=fault)
    allowed = ALLOWED_SPILLS.get((found.kernel, found.capability), MAX_SPILL)
    if found.spill > allowed:
        fault = f"spills {found.spill} bytes of a thread's registers, and {allowed} are allowed"
        return found._replace(fault=fault)
    return found


def _text(value: Any) -> str:
    return str(int(value) if isinstance(value, bool) else value)


def _number(pattern: str, log: str) -> int:
    """Return the number in the assembler's log. Raises ValueError if there is none: then the log has changed."""
    found = re.search(pattern, log)
    if not found:
        raise ValueError(f"the assembler's log has no {pattern!r}:\n{log}")
    return int(found[1])
