"""Ranks: the one Group of a program that uses this package, its ranks under torchrun, else a single rank."""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import dataclass

import torch
import torch.distributed as dist

from wanvae_app.errors import plural
from wanvae_app.parallel.process_group import Group


@dataclass(eq=False)
class Ranks:
    """A group, shared by all VAEs of this program, and whether it codes a clip that has not ended."""

    group: Group
    is_coding: bool = False

    def check_idle(self) -> None:
        """Raise ValueError if a clip has not ended: several ranks code one after the other."""
        if self.is_coding and self.group.size > 1:
            raise ValueError(
                "A stream of these ranks has not ended: exhaust or close it before the next call."
            )


_ranks: dict[str, Ranks] = {}  # by device; only one if there are several ranks
_lock = threading.Lock()


def shared_ranks(device: str | torch.device) -> Ranks:
    """Return this program's ranks for a device: auto, cpu, cuda, or one GPU such as cuda:1 without torchrun.

    Under torchrun all ranks call this, and join at the first call. Raises ValueError for a device that is not there,
    for a second device under torchrun, and if the program has made a process group of its own.
    """
    name = str(device)
    with _lock:
        if name not in _ranks:
            several = int(os.environ.get("WORLD_SIZE", 1)) > 1
            _ranks[name] = _join(name) if several else Ranks(Group(0, 1, _single_device(name)))
        return _ranks[name]


def _join(name: str) -> Ranks:
    """Join the ranks that torchrun has started."""
    kind = name.partition(":")[0]  # torchrun says which GPU is a rank's own
    for known in _ranks.values():
        if kind in ("auto", known.group.device.type):
            return known
        raise ValueError(f"device={name!r}: the ranks are on {known.group.device.type} already.")
    if dist.is_initialized():
        raise ValueError(
            "This program has initialised torch.distributed itself: call wanvae_app.load_vae before, or run it without "
            "torchrun."
        )
    group = Group.join(kind)
    # Else the end of one rank would look like its death to those that still exchange their last words.
    atexit.register(group.close)
    return Ranks(group)


def _single_device(name: str) -> torch.device:
    """Return the device of a program without torchrun. Raises ValueError if it is not there."""
    if name == "auto":
        return (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is not known; give auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name!r} cannot be used; give auto, cpu, cuda or cuda:N.")
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    index = device.index if device.index is not None else (torch.cuda.current_device() if count else 0)
    if index >= count:
        raise ValueError(f"device={name!r}: PyTorch finds {plural(count, 'GPU')} here.")
    return torch.device("cuda", index)
