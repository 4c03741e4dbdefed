"""MmaKernel: `mma_conv.cu` for certain shapes and types and a compute capability, compiled and started.

A block computes a region of pixels for `width` channels. How large its parts are is chosen by the shared memory that a
multiprocessor has.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wanvae_app.kernels import cuda_driver, nvrtc
from wanvae_app.kernels.capability import pretended_capability, shared_bytes

REGION_COLUMNS = 16  # of pixels whose results a block computes
PLANES = {1: 1, 2: 4, 4: 1}  # by frames per tile: the frames that are read together


class Block(NamedTuple):
    """What one block of `mma_conv.cu` computes, and with what means."""

    frames: int  # that it makes together: 1, 2 or 4
    taps: int  # rows and columns of taps: 3, 2 for a phase of an enlarged picture, or 1
    width: int  # channels out
    depth: int  # channels in per step: 16 or 32
    threads: int
    blocks: int  # of a multiprocessor at a time
    stages: int  # of weights in shared memory, one of which is multiplied
    stage_columns: int = 1  # columns of taps of a stage
    rows: int = 2  # of pixels that a warp computes

    @property
    def region_rows(self) -> int:
        """Rows of pixels whose results the block computes."""
        return 4 * self.rows

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory: two buffers of inputs, the stages of weights, and the places of the pixels."""
        planes, pixels = PLANES[self.frames], (self.region_rows + 2) * (REGION_COLUMNS + 2)
        inputs = planes * pixels * self.depth * 2
        column = self.taps * planes * self.width * self.depth * 2
        return 2 * inputs + self.stages * self.stage_columns * column + 4 * pixels


def choose_block(c: int, n: int, frames: int, taps: int, capability: int) -> Block:
    """Return the block for c channels in and n channels out.

    Of the candidates for its kind, which were measured on an H200, the first half are for cards with much shared
    memory. Of those that fit, it is the one that computes the fewest channels in vain, with a preference for wide
    blocks, because a fragment of pixels serves all channels of a warp.
    """
    shared = shared_bytes(capability)

    def fits(block: Block) -> bool:
        return block.shared_bytes + 1024 <= shared // block.blocks

    if frames == 4:  # 32 channels fill the registers
        deep, shallow = (Block(4, taps, 32, depth, 128, 2, 2, stage_columns=3) for depth in (32, 16))
        return deep if fits(deep) else shallow
    if frames == 2:
        for stages in (3, 2):
            if fits(block := Block(2, taps, 32, 16, 128, 2, stages)):
                return block
        candidates = [Block(2, taps, width, 16, 256, 1, 2) for width in (64, 48, 32)]
    elif taps == 3:
        candidates = [Block(1, 3, width, 16, 128, 2, 2, 3, rows=4) for width in (48, 32, 16)]
    elif taps == 2:
        candidates = [
            Block(1, 2, width, depth, 128, 2, 2, 2, rows)
            for depth in ((16,) if c <= 16 else (32, 16))
            for width, rows in ((96, 3), (80, 3), (64, 4), (48, 4), (32, 4), (16, 4))
        ]
    else:
        candidates = [
            Block(1, 1, width, 16 if c <= 16 else 32, 128, 2, 3) for width in (96, 80, 64, 48, 32, 16)
        ]
    return min(filter(fits, candidates), key=lambda block: -(-n // block.width) * (block.width + 6))


class MmaKernel(NamedTuple):
    """`mma_conv.cu` for one kind of block, certain types, and what is added to the sums."""

    block: Block
    time_taps: int  # 1 or 3, for one frame per tile
    capability: int
    element: str  # f16 or bf16: what is multiplied
    half: bool  # whether bias, residual, shortcut and results are fp16, not bf16
    ragged: bool  # whether the channels in are no multiple of the depth
    residual: bool
    padded: bool  # whether the result goes into padded frames
    channels_per_output: int = 0  # of a shortcut; 0 for none
    time_factor: int = 0

    def text(self) -> str:
        """Return what is compiled: macros, the header, and the kernel."""
        block = self.block
        macros = {
            "ELEMENT": f'"{self.element}"',
            "HALF": int(self.half),
            "FRAMES": block.frames,
            "KT": self.time_taps,
            "TAPS": block.taps,
            "BN": block.width,
            "ROWS": block.rows,
            "DEPTH": block.depth,
            "THREADS": block.threads,
            "BLOCKS": block.blocks,
            "STAGES": block.stages,
            "STAGE_COLUMNS": block.stage_columns,
            "RAGGED": int(self.ragged),
            "RESIDUAL": int(self.residual),
            "PADDED": int(self.padded),
            "PER_OUTPUT": self.channels_per_output,
            "TIME_FACTOR": self.time_factor,
        }
        head = "".join(f"#define {name} {value}\n" for name, value in macros.items())
        folder = Path(__file__).parent
        return head + "".join((folder / name).read_text() for name in ("mma.cuh", "mma_conv.cu"))

    def start(self, num_blocks: int, device: torch.device, arguments: Sequence[Any]) -> None:
        """Start so many blocks with ctypes' values as arguments. The first call compiles the kernel."""
        # For a card that only pretends to be of this capability the driver translates PTX.
        form = "sm" if pretended_capability() is None else "compute"
        function = _function(self, f"{form}_{self.capability}", device)
        block = self.block
        cuda_driver.launch(
            function, num_blocks, block.threads, block.shared_bytes, device, arguments, dependent=False
        )


@lru_cache
def _function(kernel: MmaKernel, target: str, device: torch.device) -> ctypes.c_void_p:
    code = nvrtc.compiled(kernel.text(), "mma_conv", target)
    return cuda_driver.load_function(code, "mma_conv_kernel", kernel.block.shared_bytes, device)
