"""Compiles kernels in CUDA C++ for cards that are not at hand, and reads what each program needs there.

NVRTC and the reader of machine code come as wheels, PyTorch's or `nvidia-cuda-nvrtc`, and Triton's. It takes no GPU.
"""

from __future__ import annotations

import ctypes
import glob
import re
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from triton import knobs

from wanvae_app.bench.assembly import Assembly, judged
from wanvae_app.bench.launches import CudaCompilation
from wanvae_app.kernels import nvrtc
from wanvae_app.kernels.hopper_kernel import HopperKernel

# The machine's names for what INSTRUCTIONS in `assembly.py` calls as PTX does.
INSTRUCTIONS = {"cp.async": "LDGSTS", "TMA": "UTMALDG", "mma.sync": "HMMA", "wgmma": "HGMMA"}


@lru_cache
def find_nvrtc() -> ctypes.CDLL | None:
    """Return the newest NVRTC that a wheel has brought; None if there is none."""
    paths = [path for folder in sys.path for path in glob.glob(f"{folder}/nvidia/*/lib/libnvrtc.so.*")]
    return ctypes.CDLL(max(paths, key=lambda path: path.rpartition(".")[2])) if paths else None


def assemble_cuda(compilation: CudaCompilation, capability: tuple[int, int]) -> Assembly:
    """Compile a kernel for the card of its own capability, and judge what comes out. Needs NVRTC."""
    kernel, library = compilation.kernel, find_nvrtc()
    assert library is not None
    is_hopper = isinstance(kernel, HopperKernel)
    shared = kernel.shared_bytes if isinstance(kernel, HopperKernel) else kernel.block.shared_bytes
    blocks = 1 if isinstance(kernel, HopperKernel) else kernel.block.blocks
    found = Assembly(compilation.name, compilation.parameters(), capability, shared)
    target = "sm_90a" if is_hopper else f"sm_{kernel.capability}"  # type: ignore[union-attr]
    try:
        code = nvrtc.compile_text(library, kernel.text(), compilation.name, target)
    except RuntimeError as error:
        return found._replace(fault=f"does not compile: {' '.join(str(error).split())[-300:]}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(code)
        usage, machine_code = (
            _cuobjdump(option, path) for option in ("--dump-resource-usage", "--dump-sass")
        )
    numbers = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert numbers is not None, usage
    found = found._replace(
        registers=int(numbers[1]),
        spill=int(numbers[2]),
        instructions={
            name: count
            for name, word in INSTRUCTIONS.items()
            if (count := len(re.findall(rf"\b{word}\b", machine_code)))
        },
    )
    return judged(found, blocks)


def _cuobjdump(option: str, path: Path) -> str:
    tool = knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, option, str(path)], check=True, capture_output=True, text=True).stdout
