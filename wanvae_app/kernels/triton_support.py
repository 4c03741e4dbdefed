"""Whether Triton's kernels run on a device."""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
from functools import lru_cache
from pathlib import Path

import torch

from wanvae_app.errors import describe
from wanvae_app.kernels.norm import activate
from wanvae_app.kernels.padded_frames import PaddedFramePool

log = logging.getLogger(__name__)


@lru_cache
def why_unsupported(device: torch.device) -> str:
    """Return in a clause why Triton does not work on a GPU, or "" if it does. Compiles and runs a kernel."""
    try:
        frames = PaddedFramePool(1, 1, 8, torch.bfloat16, device)
        activate(torch.ones(1, 1, 1, 8, dtype=torch.bfloat16, device=device), None, frames, frames.take(1))
    except Exception as error:  # the compiler and its tools raise anything; the plain path needs none of them
        missing = missing_tools()
        log.warning("Triton does not work here, so coding is slower: %s", error)
        if missing:
            return f"Triton needs {' and '.join(missing)}"
        return f"Triton does not work here ({describe(error)})"
    return ""


def missing_tools() -> list[str]:
    """Return what Triton compiles its launchers with and this machine lacks."""
    found = [os.environ.get("CC"), *map(shutil.which, ("clang", "gcc", "cc"))]  # where Triton looks
    has_headers = (Path(sysconfig.get_path("include")) / "Python.h").is_file()
    return ["gcc"] * (not any(found)) + ["Python's headers"] * (not has_headers)
