"""What all ranks agree on before they make a VAE: its dtype and its code path.

    agreed = agree(group, "auto")
    vae = load_vae(source, agreed.dtype, group.device, agreed.path)
    check_alike(group, vae)

Every rank says what its card does best, and all take what all of them can. Ranks of unequal dtype or path exchange
messages of equal size, so nothing would fail, and the picture would be garbage.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch

from wanvae_app.device import DTYPES, choose_dtype, device_name, slow_dtype
from wanvae_app.fast.choice import usable_kernels, why_no_kernels_take
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Ability(NamedTuple):
    """What one rank's device can do. Plain data, because it travels to the other ranks as JSON."""

    device: str  # its name
    is_gpu: bool
    asked_dtype: str  # the option --dtype of this rank
    best_dtype: str  # what "auto" is on this device
    kernels: list[str]  # names of usable KernelSets
    reason: str  # why these, or why none
    warning: str  # a sentence if the dtype asked for is slow here, else ""


class Agreement(NamedTuple):
    """What all ranks use."""

    dtype: torch.dtype
    path: CodePath
    warnings: list[str]  # sentences about cards that do not do the dtype well


def agree(group: Group, dtype_name: str) -> Agreement:
    """Agree with all ranks on dtype and path; all call this. `dtype_name` is "auto" or one of DTYPES.

    Raises ValueError, on all ranks alike, for an unknown dtype, or if ranks were asked for different ones.
    """
    mine = find_ability(group.device, dtype_name)
    return common([Ability(*json.loads(text)) for text in group.share(json.dumps(mine))])


def find_ability(device: torch.device, dtype_name: str) -> Ability:
    """Return what a device can do in the dtype called `dtype_name`, which may be "auto"."""
    dtype = choose_dtype(dtype_name, device)
    warning = slow_dtype(dtype, device)
    reason, kernels = "no GPU" if device.type == "cpu" else why_no_kernels_take(dtype), []
    if not reason:
        usable = usable_kernels(device)
        kernels, reason = [kernel_set.name for kernel_set in usable.kernels], usable.reason
    best = DTYPE_NAMES[choose_dtype("auto", device)]
    return Ability(device_name(device), device.type == "cuda", dtype_name, best, kernels, reason, warning)


def common(abilities: Sequence[Ability]) -> Agreement:
    """Return what devices of these abilities, by rank, can do together. Raises ValueError as `agree` does."""
    asked = sorted({ability.asked_dtype for ability in abilities})
    if len(asked) > 1:
        raise ValueError(f"The ranks were given --dtype {' and '.join(asked)}: give all of them the same.")
    dtype = _common_dtype(abilities)
    warnings = sorted({ability.warning for ability in abilities if ability.warning})
    return Agreement(dtype, _common_path(abilities, DTYPE_NAMES[dtype]), warnings)


def _common_dtype(abilities: Sequence[Ability]) -> torch.dtype:
    """Return the dtype asked for; for "auto" bf16 if it is every rank's best, else fp16 on GPUs and fp32 on CPUs."""
    asked = abilities[0].asked_dtype
    if asked != "auto":
        return DTYPES[asked]
    best = {ability.best_dtype for ability in abilities}
    if len(best) == 1:
        return DTYPES[best.pop()]
    return torch.float16 if all(ability.is_gpu for ability in abilities) else torch.float32


def _common_path(abilities: Sequence[Ability], dtype: str) -> CodePath:
    """Return the best path that every rank can take, and why."""
    first = abilities[0]
    shared = [each for each in KernelSet if all(each.name in ability.kernels for ability in abilities)]
    path = CodePath(shared[0] if shared else None, first.reason)
    devices = sorted({ability.device for ability in abilities})
    # The rank that keeps the others from a better path: it can do least.
    least = min(range(len(abilities)), key=lambda rank: len(abilities[rank].kernels))
    if len(devices) > 1:
        reason = f"cards differ: {', '.join(devices)}; all take {dtype} and {path.name}"
        if path.kernels is None and abilities[least].reason:
            reason += f", because of rank {least}: {abilities[least].reason}"
        return path._replace(reason=reason)
    if abilities[least].kernels != first.kernels:  # equal cards, but not equal machines
        return path._replace(reason=f"rank {least}: {abilities[least].reason}")
    return path


def why_unequal(group: Group, vae: WanVAE) -> str:
    """Return in a clause how a rank's VAE differs from rank 0's in dtype, path or shape; "" if none does.

    All ranks call this, and all get the same answer.
    """
    mine = [list(DTYPES.values()).index(vae.dtype), _number_of(vae.path.kernels), _checksum(vae)]
    first, *others = group.agree([float(number) for number in mine])
    for rank, other in enumerate(others, 1):
        if other[:2] != first[:2]:
            return f"rank {rank} has {_said(other)}, and rank 0 {_said(first)}"
        if other != first:
            return f"the VAE of rank {rank} is of another shape than rank 0's"
    return ""


def check_alike(group: Group, vae: WanVAE) -> None:
    """Raise ValueError on all ranks unless all have a VAE of one dtype, path and shape. All ranks call this."""
    if why := why_unequal(group, vae):
        raise ValueError(
            f"The ranks cannot work together: {why}; start them with the same options and weights."
        )


def summary(group: Group, vae: WanVAE) -> str:
    """Return which devices code in which dtype on which path, and why, as one line."""
    devices = ", ".join(dict.fromkeys(group.device_names))
    ranks = f"{group.size} rank{'s' * (group.size != 1)}"
    return f"{ranks} on {devices}, {DTYPE_NAMES[vae.dtype]}, {vae.path}"


def _number_of(kernels: KernelSet | None) -> int:
    return -1 if kernels is None else list(KernelSet).index(kernels)


def _checksum(vae: WanVAE) -> int:
    """A number that differs between configurations, exact as a float64."""
    return zlib.crc32(repr(vae.config).encode())


def _said(numbers: Sequence[float]) -> str:
    """Dtype and path of a rank, as `why_unequal` sent them."""
    dtype, kernels = (int(number) for number in numbers[:2])
    path = CodePath(None if kernels < 0 else list(KernelSet)[kernels], "")
    return f"{list(DTYPES)[dtype]} and {path.name}"
