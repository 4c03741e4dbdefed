"""The choice of the code path: made once, when a VAE is made, by the card, the dtype and the widths.

CARDS says which sets of kernels a card runs. Ranks choose together, see `agreement.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from wanvae_app.config import WanConfig
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.model.vae import WanVAE

DTYPES = (torch.bfloat16, torch.float16)
WIDTH_MULTIPLE = 8  # channels: 16 bytes of 16-bit numbers, which a GPU's copy engines move at a time
# Shared memory that a program of these kernels takes at most, in bytes.
SHARED_BYTES = {
    KernelSet.HOPPER: 200 * 1024,
    KernelSet.DESCRIPTORS: 200 * 1024,
    KernelSet.POINTERS: 99
    * 1024,  # what 8.6, 8.9 and 12.0 have: 100 KiB, less 1 KiB that the driver reserves
}


class Cards(NamedTuple):
    """Which kernels the cards run from one compute capability on, up to that of the row before."""

    since: tuple[int, int]
    kernels: tuple[KernelSet, ...]  # best first
    why: str


CARDS = (
    Cards(
        (11, 0), (KernelSet.POINTERS,), "where kernels read tiles by pointers, as every card since Ampere can"
    ),
    Cards(
        (10, 0),
        (KernelSet.DESCRIPTORS, KernelSet.POINTERS),
        "where kernels read tiles by tensor descriptors; those in CUDA C++ are for 9.0 alone",
    ),
    Cards(
        (9, 0),
        (KernelSet.HOPPER, KernelSet.DESCRIPTORS, KernelSet.POINTERS),
        "for which kernels in CUDA C++ are written",
    ),
    Cards(
        (8, 0), (KernelSet.POINTERS,), "where kernels read tiles by pointers: it has no tensor descriptors"
    ),
)


class Usable(NamedTuple):
    """The sets of kernels that a device runs, best first, and why the first, or why none."""

    kernels: tuple[KernelSet, ...]
    reason: str


def cards_of(capability: tuple[int, int]) -> Cards | None:
    """Return the row of CARDS for a compute capability; None for a card that is too old."""
    return next((row for row in CARDS if capability >= row.since), None)


def usable_kernels(device: torch.device) -> Usable:
    """Return which sets of kernels a device runs. Compiles and runs a kernel or two at the first call."""
    if device.type != "cuda":
        return Usable((), "no GPU")
    if torch.version.hip is not None:
        return Usable((), "the GPU is not NVIDIA's")
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    capability = torch.cuda.get_device_capability(device)
    cards, number = cards_of(capability), f"compute capability {capability[0]}.{capability[1]}"
    if cards is None:
        return Usable((), f"{number}, and {CARDS[-1].since[0]}.{CARDS[-1].since[1]} is needed")
    properties: Any = torch.cuda.get_device_properties(device)  # declares only some of its attributes
    shared = properties.shared_memory_per_block_optin
    fitting = [kernels for kernels in cards.kernels if SHARED_BYTES[kernels] <= shared]
    if not fitting:
        needed = SHARED_BYTES[cards.kernels[-1]] // 1024
        return Usable((), f"{shared // 1024} KiB of shared memory for a program, and {needed} are needed")
    try:
        from wanvae_app.kernels import mma_support, triton_support, winograd
    except ImportError:  # a build of PyTorch without Triton, or an old one
        return Usable((), "Triton is not installed")
    if why := triton_support.why_unsupported(device):
        return Usable((), why)
    if KernelSet.HOPPER in fitting and winograd.is_supported(device):  # then all CUDA C++ works
        return Usable(tuple(fitting), f"{number}, {cards.why}")
    compiled = mma_support.is_supported(device)
    usable = [
        each for each in fitting if each is KernelSet.DESCRIPTORS or (each is KernelSet.POINTERS and compiled)
    ]
    if fitting[0] not in usable:
        return Usable(tuple(usable), f"{number}, but its kernels in CUDA C++ do not work here")
    return Usable(tuple(usable), f"{number}, {cards.why}")


def choose_path(config: WanConfig, device: torch.device, dtype: torch.dtype) -> CodePath:
    """Return the fastest path that codes with this configuration and dtype on a device."""
    if why := _why_plain(config, device, dtype):
        return CodePath(None, why)
    kernels, reason = usable_kernels(device)
    return CodePath(kernels[0] if kernels else None, reason)


def build_vae(
    config: WanConfig,
    device: torch.device,
    dtype: torch.dtype,
    name: str = "Wan VAE",
    path: CodePath | None = None,
) -> WanVAE:
    """Return a VAE of this configuration: a FastVAE on a path with kernels, else a WanVAE. Its `path` says which.

    `path` is what the ranks agreed on; without it, this device chooses. A path with kernels becomes the plain one where
    dtype or widths are not what kernels take. The weights are made on PyTorch's present default device, which may be
    "meta".
    """
    if path is None:
        path = choose_path(config, device, dtype)
    elif path.kernels is not None and (why := _why_plain(config, device, dtype)):
        path = CodePath(None, why)
    if path.kernels is None:
        vae = WanVAE(config, name)
    else:
        from wanvae_app.fast.vae import FastVAE  # it needs Triton

        vae = FastVAE(config, name, path.kernels)
        vae.take_path(path)
    vae.path = path
    return vae


def why_no_kernels_take(dtype: torch.dtype) -> str:
    """Return why a dtype takes the plain path on every device; "" if kernels take it."""
    return "" if dtype in DTYPES else f"{str(dtype).removeprefix('torch.')} is asked for"


def _why_plain(config: WanConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Return why only the plain path will do, whatever the card is; "" if kernels may."""
    if device.type != "cuda":
        return "no GPU"
    if why := why_no_kernels_take(dtype):
        return why
    odd = [width for width in config.widths if width % WIDTH_MULTIPLE]
    return f"a layer has {odd[0]} channels, and kernels take multiples of {WIDTH_MULTIPLE}" if odd else ""
