"""Hides from Python what macOS lacks: /proc, and functions of Linux. Python imports this at its start where this
folder stands on PYTHONPATH. ctypes and the interpreter itself still see Linux."""

from __future__ import annotations

import builtins
import io
import os
from typing import Any

for name in ("sched_getaffinity", "memfd_create", "pidfd_open", "preadv"):
    if hasattr(os, name):
        delattr(os, name)


def _hides(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and f"{os.fspath(path)}/".startswith("/proc/")


def _without_proc(function: Any) -> Any:
    def checked(path: Any, *args: Any, **kwargs: Any) -> Any:
        if _hides(path):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return function(path, *args, **kwargs)

    return checked


builtins.open = io.open = _without_proc(open)  # type: ignore[assignment]
for name in ("open", "stat", "lstat", "readlink", "listdir", "scandir"):
    setattr(os, name, _without_proc(getattr(os, name)))
