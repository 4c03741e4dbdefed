"""HopperKernel: a kernel of this folder in CUDA C++, put together for certain shapes, compiled and started.

`hopper.cuh` lays out its shared memory and holds the same constants as this file. A block has two groups of four warps
that multiply, and a group that fetches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wanvae_app.kernels import cuda_driver, nvrtc

REGION_ROWS, REGION_COLUMNS = 8, 16  # pixels whose results a block computes
DEPTH = 32  # channels in per step
# What the copy engine moves at a time: channels, columns, rows, frames.
INPUT_BOX = DEPTH, REGION_COLUMNS + 2, REGION_ROWS + 2, 1  # a region and the pixels around it
RESULT_BOX = 32, 8, 2, 1  # the results of one warp
THREADS = 384  # of a block
SHARED_BYTES = 227 * 1024  # that a block may use
MAX_STAGES = 12


class HopperKernel(NamedTuple):
    """`name`_kernel of `name`.cu, for certain shapes and types."""

    name: str
    width: int  # channels out that a block computes, a multiple of 32
    element: str  # f16 or bf16: what it multiplies
    macros: tuple[tuple[str, int], ...]  # defined in front of the text
    extra_bytes: int = 0  # of shared memory, beyond what `hopper.cuh` lays out

    @property
    def stages(self) -> int:
        """Stages of the ring in shared memory: as many as there is room for.

        A stage holds the weights of one tap on their way in, or results on their way out.
        """
        stage_bytes = self._shared_bytes(1) - self._shared_bytes(0)
        return min((SHARED_BYTES - self._shared_bytes(0)) // stage_bytes, MAX_STAGES)

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory that a block uses."""
        return self._shared_bytes(self.stages)

    def _shared_bytes(self, stages: int) -> int:
        """Return the bytes for alignment, two buffers of four inputs, so many stages, and barriers."""
        input_bytes = -(-(REGION_ROWS + 2) * (REGION_COLUMNS + 2) * 2 * DEPTH // 512) * 512
        stage_bytes = 4 * 2 * DEPTH * self.width
        return 1024 + 2 * 4 * input_bytes + stages * stage_bytes + 16 * (2 + stages) + self.extra_bytes

    def text(self) -> str:
        """Return what is compiled: macros, the headers, and the kernel.

        Among them stands `multiply`, the tensor cores' instruction m64 n`width` k16. It names a register for each of
        its sums, so it is another text for each width.
        """
        width, element, regs, folder = self.width, self.element, self.width // 2, Path(__file__).parent
        sums = ", ".join(f"%{i}" for i in range(regs))
        outputs = ", ".join(f'"+f"(p[{i}])' for i in range(regs))
        instruction = f"""
constexpr int REGS = {regs};
DEV void multiply(float (&p)[REGS], u64 a, u64 b, int add_to) {{
    asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{regs + 2}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{width}k16.f32.{element}.{element} "
        "{{{sums}}}, %{regs}, %{regs + 1}, p, 1, 1, 0, 0;\\n}}"
        : {outputs} : "l"(a), "l"(b), "r"(add_to));
}}
"""
        macros = (("BN", width), ("STAGES", self.stages), *self.macros)
        head = "".join(f"#define {name} {int(value)}\n" for name, value in macros)
        files = ("hopper.cuh", "results.cuh", f"{self.name}.cu")
        hopper, results, kernel = ((folder / name).read_text() for name in files)
        return head + hopper + instruction + results + kernel

    def start(
        self, num_clusters: int, device: torch.device, arguments: Sequence[Any], dependent: bool = False
    ) -> None:
        """Start clusters of two blocks, as `cuda_driver.launch` does. The first call compiles the kernel."""
        function = _function(self, device)
        cuda_driver.launch(
            function, 2 * num_clusters, THREADS, self.shared_bytes, device, arguments, dependent
        )


@lru_cache
def _function(kernel: HopperKernel, device: torch.device) -> ctypes.c_void_p:
    code = nvrtc.compiled(kernel.text(), kernel.name, "sm_90a")
    return cuda_driver.load_function(code, f"{kernel.name}_kernel", kernel.shared_bytes, device)
