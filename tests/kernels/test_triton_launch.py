"""The seam that every launch of a kernel in Triton goes through."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")  # none for this platform
from triton.tools.tensor_descriptor import TensorDescriptor

from wanvae_app.kernels.launch import hooked, launch, warm_up
from wanvae_app.kernels.pixels import to_uint8

PACKAGE = Path(__file__).resolve().parents[2] / "wanvae_app"


class Kernel:
    """Takes the place of a kernel, and notes how it was started."""

    def __init__(self) -> None:
        self.started: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **options: self.started.append((grid, args, options))

    def warmup(self, *args: Any, grid: tuple[int, ...], **options: Any) -> None:
        self.started.append((grid, args, options))


@pytest.mark.parametrize("start", [launch, warm_up])
def test_only_tensors_with_data_start_a_kernel(start: Any) -> None:
    kernel, x, empty = Kernel(), torch.ones(16, 16), torch.empty(16, 16, device="meta")
    start(kernel, (2, 3), 5, x, 7, num_warps=4)
    start(kernel, (2, 3), 5, empty, 7, num_warps=4)
    start(kernel, (2, 3), TensorDescriptor.from_tensor(empty, [16, 16]), empty, num_warps=4)
    assert kernel.started == [((2, 3), (5, x, 7), {"num_warps": 4})]


@pytest.mark.parametrize("start", [launch, warm_up])
def test_a_hook_sees_all_launches_and_changes_their_options(start: Any) -> None:
    seen: list[tuple[Any, ...]] = []

    def hook(kernel: Any, args: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
        seen.append((kernel, args))
        return {**options, "arch": "sm80"}

    kernel, x, empty = Kernel(), torch.ones(1), torch.empty(1, device="meta")
    with hooked(hook):
        start(kernel, (1,), empty)
        start(kernel, (1,), x, num_warps=4)
    start(kernel, (1,), x)
    assert seen == [(kernel, (empty,)), (kernel, (x,))]
    assert [options for _, _, options in kernel.started] == [{"num_warps": 4, "arch": "sm80"}, {}]


def test_a_launcher_allocates_without_data_what_it_allocates_with_data() -> None:
    out = to_uint8(torch.empty(3, 5, device="meta"))
    assert out.is_meta and out.shape == (3, 5) and out.dtype == torch.uint8


def test_every_launch_goes_through_the_seam() -> None:
    """Nothing subscripts a kernel or warms one up, except `launch.py`."""
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "kernels" / "launch.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
                assert not node.value.id.endswith("_kernel"), f"{path}:{node.lineno} starts a kernel itself"
            if isinstance(node, ast.Attribute):
                assert node.attr != "warmup", f"{path}:{node.lineno} warms a kernel up itself"
