"""Another program that takes all memory that a GPU has left.

python tests/support/gpu_memory.py DEVICE    # says "taken", and keeps it until its input ends
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALLEST = 2**21  # bytes of a piece; CUDA gives memory to PyTorch in pieces of this size or larger


@contextmanager
def no_memory_left(device: torch.device) -> Iterator[None]:
    """Let another program take all memory of the device that this one does not use now, while the context is open."""
    torch.cuda.empty_cache()
    command = [sys.executable, __file__, str(device.index)]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdin is not None and program.stdout is not None
    try:
        assert program.stdout.readline() == "taken\n"
        yield
    finally:
        program.stdin.close()
        program.wait(30)


def take_all(device: torch.device) -> list[torch.Tensor]:
    """Allocate all free memory of the device, in ever smaller pieces."""
    taken = []
    size = torch.cuda.mem_get_info(device)[0]
    while size >= SMALLEST:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            size //= 2
    return taken


if __name__ == "__main__":
    kept = take_all(torch.device("cuda", int(sys.argv[1])))
    print("taken", flush=True)
    sys.stdin.read()
