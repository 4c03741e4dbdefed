"""Launches of Triton's kernels: every launcher in this room starts such a kernel by `launch`.

Tensors without data (on the device "meta") start nothing. A hook sees all launches, these included: so it is found
which kernels a clip needs, with no GPU (`bench/launches.py`), and what a launch is compiled for can be changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

# Takes a kernel, its positional arguments, and its other arguments and options by name. Returns the latter, as they
# are or changed.
Hook = Callable[[Any, Sequence[Any], dict[str, Any]], dict[str, Any]]

_hook: ContextVar[Hook | None] = ContextVar("_hook", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Start `grid` programs of a Triton kernel, with the arguments and options that `kernel[grid]` takes.

    The first tensor among the positional arguments decides whether there is data.
    """
    hook = _hook.get()
    if hook is not None:
        options = hook(kernel, args, options)
    if not _has_no_data(args):
        kernel[grid](*args, **options)


def warm_up(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Compile what `launch` would start."""
    hook = _hook.get()
    if hook is not None:
        options = hook(kernel, args, options)
    if not _has_no_data(args):
        kernel.warmup(*args, grid=grid, **options)


def show(kernel: Any) -> None:
    """Show the hook a kernel in CUDA C++ that would be started if there were data."""
    hook = _hook.get()
    if hook is not None:
        hook(kernel, (), {})


@contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Show `hook` all launches of this thread, until the block ends. A hook that was there before sees none of them."""
    token = _hook.set(hook)
    try:
        yield
    finally:
        _hook.reset(token)


def _has_no_data(args: Sequence[Any]) -> bool:
    for arg in args:
        if isinstance(arg, Tensor):
            return arg.is_meta
    return False
