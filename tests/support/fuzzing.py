"""What the fuzz tests share: the number of examples, the accepted outcomes, and the bounds on memory and time.

They read files in the tests' own process. What bounds them there is the readers alone, not the limits of the process
that the app reads files in.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import save
from support.torch_files import as_bytes, save_legacy

from wanvae_app.config import PRESETS
from wanvae_app.formats.checkpoint import check
from wanvae_app.formats.latent_file import parse_latent

WAN = PRESETS["wan2.1"]
MAX_GROWTH = 300 * 2**20  # bytes by which a test may raise this process's memory
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
MAX_SECONDS = 3600 if EXAMPLES else 120  # for a test


def fuzz(num_examples: int) -> settings:
    """Settings for `num_examples` examples, the same in every run; or for FUZZ_EXAMPLES random ones."""
    return settings(
        max_examples=int(EXAMPLES or num_examples),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=5000,  # milliseconds for one example, on a busy machine
        suppress_health_check=list(HealthCheck),
    )


def resident_bytes(key: str) -> int:
    """Bytes of this process in memory: "VmRSS" is the current number, "VmHWM" the peak."""
    status = Path("/proc/self/status").read_text()
    match = re.search(rf"{key}:\s+(\d+) kB", status)
    assert match is not None, key
    return int(match[1]) * 1024


@pytest.fixture(autouse=True)
def memory_and_time_stay_bounded() -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_bytes("VmRSS")
    # What takes exponential time holds the interpreter's lock. This ends all tests, with a traceback.
    faulthandler.dump_traceback_later(MAX_SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()
    growth = resident_bytes("VmHWM") - before
    assert growth < MAX_GROWTH, f"{growth / 2**20:.0f} MiB more than before"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path that every example is written to."""
    return tmp_path_factory.mktemp("fuzz") / "upload"


def one_sentence(read: Callable[[], Any]) -> Any:
    """The result of `read`, or None if it raises a ValueError whose message is one sentence."""
    try:
        return read()
    except ValueError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and 10 < len(text) < 500, text
        return None


def try_latent(file: Path, content: bytes) -> None:
    """Read `content` as a latent: it is valid, or refused in one sentence."""
    file.write_bytes(content)
    z = one_sentence(lambda: parse_latent(file, WAN))
    if z is not None:
        assert z.ndim == 5 and z.shape[:2] == (1, 16) and z.dtype == torch.float32 and z.isfinite().all()
        assert z.numel() <= len(content), "a value takes a byte at least"


def try_checkpoint(file: Path, content: bytes) -> None:
    """Check `content` as a checkpoint: it is accepted, or refused in one sentence."""
    file.write_bytes(content)
    one_sentence(lambda: check(file))


@cache
def latents() -> dict[str, bytes]:
    """A latent in every format."""
    z = torch.ones(1, 16, 2, 3, 2)
    return {
        "safetensors": save({"latent": z, "other": z.half()}),
        "archive": as_bytes(torch.save, {"latent": z, "list": [torch.nn.Parameter(z), 3, "x", None]}),
        "legacy": as_bytes(save_legacy, {"latent": z, "bf16": z.bfloat16()}),
        "fp8": as_bytes(torch.save, z.to(torch.float8_e4m3fn)),
        "numpy": as_bytes(lambda value, file: np.save(file, value), z.numpy()),
    }
