"""Compiling for cards that are not at hand: what does not fit is found, and the kernels of this project fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")  # none for this platform

from wanvae_app.bench.as_card import label, run_as
from wanvae_app.bench.cuda_assembly import find_nvrtc

needs_nvrtc = pytest.mark.skipif(not find_nvrtc(), reason="no NVRTC here")
ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python where Triton compiles, in place of interpreting."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), environment.get("PYTHONPATH", "")]
    )
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def assemblies() -> list[dict[str, Any]]:
    ran = run("-m", "support.faulty_kernels")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_shared_memory_is_compared_with_what_each_card_has(assemblies: list[dict[str, Any]]) -> None:
    ampere, geforce, hopper, *_ = assemblies
    assert 99 << 10 < ampere["shared"] <= 163 << 10
    assert not ampere["fault"] and not hopper["fault"]
    assert (
        geforce["fault"] == f"takes {geforce['shared'] / 1024:.1f} KiB of shared memory, and the card has 99"
    )
    assert set(ampere["instructions"]) == {"cp.async", "mma.sync"} and not ampere["spill"]
    assert ampere["registers"] >= 128 * 128 // 256, "a thread holds its share of the sums"


def test_spills_descriptors_and_errors_are_found(assemblies: list[dict[str, Any]]) -> None:
    crowded, described, broken = assemblies[3:6]
    assert crowded["spill"] > 32
    assert crowded["fault"] == f"spills {crowded['spill']} bytes of a thread's registers, and 32 are allowed"
    assert described["fault"] == "takes tensor descriptors, which the card does not have"
    assert broken["fault"].startswith("does not compile: ") and "128" in broken["fault"]


def test_a_hopper_gets_the_instructions_of_another_card(assemblies: list[dict[str, Any]]) -> None:
    own, others = assemblies[6:8]
    assert "wgmma" in own["instructions"] and "mma.sync" not in own["instructions"]
    assert set(others["instructions"]) == {"cp.async", "mma.sync"} and not others["fault"]


@needs_nvrtc
def test_kernels_in_cuda_are_judged_alike(assemblies: list[dict[str, Any]]) -> None:
    fitting, crowded, large = assemblies[8:]
    assert not fitting["fault"] and set(fitting["instructions"]) == {"cp.async", "mma.sync"}
    assert crowded["fault"] == f"spills {crowded['spill']} bytes of a thread's registers, and 32 are allowed"
    needed = f"{large['shared'] / 1024:.1f} KiB of shared memory, 2 times on a multiprocessor"
    assert large["fault"] == f"takes {needed}, and the card has 49"


def test_a_card_that_is_not_known_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="'sm_52' is no card to compile for; known are sm_80"),
        run_as("sm_52"),
    ):
        pass
    assert label("sm_80", "NVIDIA H100") == "Ampere's instructions (sm_80) on NVIDIA H100"


@pytest.mark.parametrize("language", ["triton", pytest.param("cuda", marks=needs_nvrtc)])
def test_every_kernel_fits_the_cards_that_it_is_for(language: str) -> None:
    """A representative part; `python -m wanvae_app.bench.compile --all` is the whole."""
    ran = run("-m", "wanvae_app.bench.compile", "--language", language)
    assert ran.returncode == 0, f"{ran.stdout[-8000:]}\n{ran.stderr[-2000:]}"
