"""What the fuzz tests share: how many examples, what is a fair answer, and how much memory it may take."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import save

from wanvae_app.config import PRESETS
from wanvae_app.formats.checkpoint import check
from wanvae_app.formats.latents import read_latent

WAN = PRESETS["wan2.1"]
MAX_GROWTH = 300 * 2**20  # bytes that this process may grow by, whatever it reads
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


def fuzz(num_examples: int) -> settings:
    return settings(
        max_examples=int(EXAMPLES or num_examples),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=5000,  # milliseconds for one example, on a busy machine
        suppress_health_check=list(HealthCheck),
    )


def resident(key: str) -> int:
    """Bytes of this process's memory: VmRSS now, or VmHWM at most so far."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


@pytest.fixture(autouse=True)
def memory_stays_bounded() -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    yield
    grown = resident("VmHWM") - before
    assert grown < MAX_GROWTH, f"{grown / 2**20:.0f} MiB more than before"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "upload"


def one_sentence(read: Callable[[], Any]) -> Any:
    """What `read` returns, or None after a refusal as it should be."""
    try:
        return read()
    except ValueError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and 10 < len(text) < 500, text
        return None


def try_latent(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    z = one_sentence(lambda: read_latent(file, WAN))
    if z is not None:
        assert z.ndim == 5 and z.shape[:2] == (1, 16) and z.dtype == torch.float32 and z.isfinite().all()
        assert z.numel() <= len(content), "a value takes a byte at least"


def try_checkpoint(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    one_sentence(lambda: check(file))


def written(write: Callable[[Any, Any], None], value: Any) -> bytes:
    buffer = io.BytesIO()
    write(value, buffer)
    return buffer.getvalue()


def legacy(value: Any, file: Any) -> None:
    torch.save(value, file, _use_new_zipfile_serialization=False)


@cache
def latents() -> dict[str, bytes]:
    """A latent in every format."""
    z = torch.ones(1, 16, 2, 3, 2)
    return {
        "safetensors": save({"latent": z, "other": z.half()}),
        "archive": written(torch.save, {"latent": z, "list": [torch.nn.Parameter(z), 3, "x", None]}),
        "legacy": written(legacy, {"latent": z, "bf16": z.bfloat16()}),
        "fp8": written(torch.save, z.to(torch.float8_e4m3fn)),
        "numpy": written(lambda value, file: np.save(file, value), z.numpy()),
    }
