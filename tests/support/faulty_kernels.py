"""Kernels that fit into few cards, for tests of what finds that out. Run it: prints what each needs, as JSON.

It needs Triton's compiler, so the tests, which use its interpreter, run it in a process of its own.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from wanvae_app.bench.as_card import run_as
from wanvae_app.bench.assembly import Assembly, assemble, target_of
from wanvae_app.bench.cuda_assembly import assemble_cuda, find_nvrtc
from wanvae_app.bench.launches import Compilation, Compilations, CudaCompilation
from wanvae_app.kernels.launch import hooked, launch
from wanvae_app.kernels.mma_kernel import Block, MmaKernel


@triton.jit
def product_kernel(x, y, out, K, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    """Multiply matrices [BLOCK, K] and [K, BLOCK], whose tiles of STAGES steps lie in shared memory."""
    m = tl.arange(0, BLOCK)
    k = tl.arange(0, 64)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in tl.range(0, K, 64, num_stages=STAGES):
        a = tl.load(x + m[:, None] * K + start + k[None, :])
        b = tl.load(y + (start + k)[:, None] * BLOCK + m[None, :])
        acc = tl.dot(a, b, acc)
    tl.store(out + m[:, None] * BLOCK + m[None, :], acc)


@triton.jit
def crowded_kernel(x, out, BLOCK: tl.constexpr):
    """Subtract the largest of BLOCK numbers from each; a thread holds all its numbers until the largest is known."""
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    tl.store(out + i, v - tl.max(v, 0))


@triton.jit
def descriptor_kernel(x, out, BLOCK: tl.constexpr):
    """Copy a tile that is read by a descriptor."""
    m = tl.arange(0, BLOCK)
    tl.store(out + m[:, None] * BLOCK + m[None, :], x.load([0, 0]))


@triton.jit
def broken_kernel(x, BLOCK: tl.constexpr):
    """Add tiles of two shapes that do not fit each other."""
    tl.store(x + tl.arange(0, BLOCK), tl.arange(0, BLOCK) + tl.arange(0, 2 * BLOCK))


def compilation(kernel: Any, *args: Any, arch: int = 80, **options: Any) -> Compilation:
    """What a launch compiles."""
    compilations = Compilations(target_of((arch // 10, arch % 10)))
    with hooked(compilations):
        launch(kernel, (1,), *args, **options)
    (found,) = compilations.found.values()
    return found


def cuda_assemblies() -> list[Assembly]:
    """A kernel in CUDA C++ that fits, one whose sums are too many for registers, one that takes too much memory."""
    fitting = Block(frames=1, taps=1, width=16, depth=16, threads=128, blocks=2, stages=2)
    blocks = [fitting, fitting._replace(frames=4, width=56), fitting._replace(stages=99)]
    kernels = [MmaKernel(block, 3, 86, "f16", False, False, False, False) for block in blocks]
    return [assemble_cuda(CudaCompilation(kernel), (8, 6)) for kernel in kernels]


def main() -> None:
    x = torch.empty(1024, 1024, dtype=torch.bfloat16, device="meta")
    out = torch.empty(1024, 1024, device="meta")
    product = compilation(product_kernel, x, x, out, 1024, BLOCK=128, STAGES=5, num_warps=8)
    crowded = compilation(crowded_kernel, out, out, BLOCK=16384, num_warps=1)
    described = compilation(descriptor_kernel, TensorDescriptor.from_tensor(x, [64, 64]), out, BLOCK=64)
    broken = compilation(broken_kernel, out, BLOCK=64)
    found = [assemble(product, card) for card in ((8, 0), (8, 6), (9, 0))]
    found += [assemble(crowded, (8, 9)), assemble(described, (8, 9)), assemble(broken, (8, 0))]
    on_hopper = compilation(product_kernel, x, x, out, 1024, BLOCK=64, STAGES=2, arch=90)
    found.append(assemble(on_hopper, (9, 0)))
    with run_as("sm_80"):
        as_ampere = on_hopper._replace(options={**on_hopper.options, "arch": "sm80"})
        found.append(assemble(as_ampere, (9, 0)))
    if find_nvrtc():
        found += cuda_assemblies()
    print(json.dumps([assembly._asdict() for assembly in found]))


if __name__ == "__main__":
    main()
