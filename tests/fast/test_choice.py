"""Which code path a card takes, and why, by pretended cards."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from wanvae_app.config import PRESETS
from wanvae_app.fast.choice import build_vae, choose_path, usable_kernels
from wanvae_app.kernels.code_path import PLAIN, CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.model.vae import WanVAE

pytest.importorskip("triton")  # none for this platform
from wanvae_app.fast.vae import FastVAE
from wanvae_app.kernels import mma_support, triton_support, winograd

GPU, CPU, HALF = torch.device("cuda", 0), torch.device("cpu"), torch.bfloat16
CONFIG = PRESETS["wan2.1"]
HOPPER, DESCRIPTORS, POINTERS = KernelSet
# Compute capability, KiB of shared memory for a program, and the sets of kernels that run there.
CARDS = {
    "V100": ((7, 0), 96, ()),
    "T4": ((7, 5), 64, ()),
    "A100": ((8, 0), 163, (POINTERS,)),
    "3090": ((8, 6), 99, (POINTERS,)),
    "Orin": ((8, 7), 163, (POINTERS,)),
    "4090": ((8, 9), 99, (POINTERS,)),
    "H100": ((9, 0), 227, (HOPPER, DESCRIPTORS, POINTERS)),
    "B200": ((10, 0), 227, (DESCRIPTORS, POINTERS)),
    "B300": ((10, 3), 227, (DESCRIPTORS, POINTERS)),
    "5090": ((12, 0), 99, (POINTERS,)),
    "a later one": ((13, 0), 227, (POINTERS,)),
}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch):
    """Pretend that a card is there, on which Triton and NVRTC work."""
    monkeypatch.setattr(triton_support, "why_unsupported", lambda device: "")
    monkeypatch.setattr(winograd, "is_supported", lambda device: True)
    monkeypatch.setattr(mma_support, "is_supported", lambda device: True)

    def pretend(capability: tuple[int, int], shared: int = 227) -> None:
        properties = SimpleNamespace(shared_memory_per_block_optin=shared * 1024)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    return pretend


@pytest.mark.parametrize("card", CARDS)
def test_every_card_has_its_kernels(card: str, pretend) -> None:
    capability, shared, expected = CARDS[card]
    pretend(capability, shared)
    kernels, reason = usable_kernels(GPU)
    assert kernels == expected
    assert f"compute capability {capability[0]}.{capability[1]}" in reason
    path = choose_path(CONFIG, GPU, HALF)
    assert path == CodePath(expected[0] if expected else None, reason)


def test_a_path_is_said_with_its_reason(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(config=CONFIG, device=GPU, dtype=HALF) -> str:
        return str(choose_path(config, device, dtype))

    pretend((9, 0))
    assert said() == "fast (Hopper): compute capability 9.0, for which kernels in CUDA C++ are written"
    assert said(dtype=torch.float16).startswith("fast (Hopper): ")
    assert said(dtype=torch.float32) == "plain PyTorch: float32 is asked for"
    assert said(dtype=torch.float64) == "plain PyTorch: float64 is asked for"
    assert said(device=CPU) == "plain PyTorch: no GPU"
    odd = "plain PyTorch: a layer has 20 channels, and kernels take multiples of 8"
    assert said(config=replace(CONFIG, base_dim=20)) == odd
    assert said(config=replace(CONFIG, decoder_base_dim=24)).startswith("fast (Hopper)")
    monkeypatch.setattr(winograd, "is_supported", lambda device: False)
    assert said().startswith("fast (Triton): compute capability 9.0, but its kernels in CUDA C++")
    pretend((8, 6), shared=99)
    assert said().startswith("fast (Ampere and later): compute capability 8.6")
    pretend((8, 6), shared=48)
    assert said() == "plain PyTorch: 48 KiB of shared memory for a program, and 99 are needed"
    pretend((7, 5))
    assert said() == "plain PyTorch: compute capability 7.5, and 8.0 is needed"
    pretend((9, 0))
    monkeypatch.setattr(triton_support, "why_unsupported", lambda device: "Triton needs gcc")
    assert said() == "plain PyTorch: Triton needs gcc"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert said() == "plain PyTorch: the GPU is not NVIDIA's"


def test_without_nvrtc_only_triton_s_kernels_run(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "is_supported", lambda device: False)
    monkeypatch.setattr(mma_support, "is_supported", lambda device: False)
    for capability, kernels in (((8, 9), ()), ((9, 0), (DESCRIPTORS,)), ((12, 0), ())):
        pretend(capability)
        number = f"compute capability {capability[0]}.{capability[1]}"
        assert usable_kernels(GPU) == (kernels, f"{number}, but its kernels in CUDA C++ do not work here")
    pretend((10, 0))
    assert usable_kernels(GPU).kernels == (DESCRIPTORS,)


def test_a_kernel_in_cuda_cpp_is_tried_before_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_nvrtc(device: torch.device) -> None:
        raise OSError("libnvrtc.so: cannot open shared object file")

    tried = mma_support.try_convolution(torch.device("meta"))
    assert tried.shape == (1, 1, 1, mma_support.CHANNELS)
    monkeypatch.setattr(mma_support, "try_convolution", without_nvrtc)
    assert not mma_support.is_supported(torch.device("cuda", 93))


def test_a_vae_carries_its_path(pretend) -> None:
    pretend((9, 0))

    def built(path: CodePath | None = None, dtype: torch.dtype = HALF, device: torch.device = GPU) -> WanVAE:
        with torch.device("meta"):
            return build_vae(CONFIG, device, dtype, path=path)

    vae = built()
    assert isinstance(vae, FastVAE) and vae.kernels is HOPPER and vae.path == choose_path(CONFIG, GPU, HALF)
    agreed = CodePath(POINTERS, "cards differ")
    vae = built(agreed)
    assert isinstance(vae, FastVAE) and vae.kernels is POINTERS and vae.path == agreed
    vae = built(agreed, torch.float32)
    assert type(vae) is WanVAE and vae.path == CodePath(None, "float32 is asked for")
    vae = built(CodePath(None, "another rank cannot"))
    assert type(vae) is WanVAE and vae.path == CodePath(None, "another rank cannot")
    assert type(built(device=CPU)) is WanVAE and WanVAE.path == PLAIN
