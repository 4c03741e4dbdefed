"""How all ranks load and unload the same VAEs: at the start, and before a job.

Every function here is called by all ranks at once. Afterwards the same VAEs are loaded on all of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import torch

from wanvae_app.codec import warm_up
from wanvae_app.device import device_fault, tidy_up
from wanvae_app.errors import describe, forget
from wanvae_app.fast.agreement import check_alike
from wanvae_app.formats.checkpoint import check
from wanvae_app.jobs.vae_cache import VaeCache, loading_bytes, weight_bytes
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.memory_estimate import free_bytes
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group

log = logging.getLogger(__name__)

# The watchdog lets a GPU take half a minute for a latent frame; compilers may take minutes for a VAE's kernels.
COMPILING_LATENTS = 20
# In the reason of a failed job: of CUDA's allocator and Python's, and of PyTorch's on the CPU.
OUT_OF_MEMORY = re.compile(r"\b(OutOfMemoryError|MemoryError)\b|not enough memory")


def open_vaes(
    group: Group, sources: Mapping[str, str], dtype: torch.dtype, path: CodePath | None = None
) -> VaeCache:
    """Read the headers of all sources, by name, load the first VAE, and wait until all ranks have done so.

    `dtype` and code path are those that the ranks agreed on; without a path, each device chooses. After a restart of
    the ranks, sources that are no longer there are left out. Raises ValueError, with one sentence, if a source holds no
    VAE, or if the ranks were given different ones.
    """
    if group.restarts:
        sources = _still_there(group, sources)
    vaes = VaeCache.open(sources, dtype, group.device, path)
    if len({signature for (signature,) in group.agree([vaes.signature])}) > 1:
        raise ValueError(
            "The ranks were started with different VAEs: give every machine the same ones, in the same order and "
            "with the same names, as in --vae NAME=SOURCE."
        )
    for name in vaes.names:
        check_alike(group, vaes[name])
    vaes.load(vaes.names[0])
    group.agree([0.0])  # wait until every rank has loaded it
    return vaes


def load_on_all_ranks(group: Group, vaes: VaeCache, name: str) -> WanVAE | None:
    """Return a VAE that is loaded on all ranks; call it within a job.

    Unloads others if memory is short. Returns None if a rank could not load it: then it is loaded on none, and that
    rank has announced the failure.
    """
    vaes.release_clips(name)
    if vaes.is_loaded(name):  # so it is on all ranks
        return vaes.use(name)
    needed, free = loading_bytes(vaes[name]), free_bytes(group.device)
    make_room(group, vaes, name, lambda more: free is not None and free + more < needed)
    reason = _load_here(group, vaes, name, needed)
    if reason:
        group.announce_failure(f"Rank {group.rank} could not load {name}: {reason}")
    if group.holds_on_all_ranks(not reason):
        log.info("loaded %s", name)
        return vaes.use(name)
    vaes.unload(name)
    return None


def _load_here(group: Group, vaes: VaeCache, name: str, needed: int) -> str:
    """Load a VAE, which takes `needed` bytes, on this rank. Return why that failed, empty if it did not."""
    tick = group.watchdog.tick if group.watchdog is not None else lambda: None
    try:
        with _working(group, f"loading {name}"):
            _check_free(needed, free_bytes(group.device))
            vae = vaes.load(name, tick)
            tidy_up(group.device)
        with _working(group, f"getting {name} ready", COMPILING_LATENTS):
            tick_in_layers(group, vae)
            warm_up(vae)
    except Exception as error:
        is_told = isinstance(error, ValueError)  # in a sentence
        reason = str(error).rstrip(".") if is_told else describe(error)
        log.error("%s could not be loaded: %s", name, reason, exc_info=None if is_told else error)
        if fault := device_fault(group.device):
            raise group.lose_device(f"rank {group.rank} lost its GPU loading {name} ({fault})") from error
        forget(error)
        tidy_up(group.device)
        return reason
    return ""


def _working(group: Group, where: str, num_latents: int = 1) -> AbstractContextManager[None]:
    """Mark one step for the watchdog; see `Watchdog.working`."""
    return group.watchdog.working(where, num_latents) if group.watchdog is not None else nullcontext()


def make_room(group: Group, vaes: VaeCache, in_use: str, is_short: Callable[[int], bool]) -> None:
    """Unload as many VAEs as any rank needs to, those used least recently first, but never `in_use`.

    `is_short` says whether this rank lacks memory though it gets so many bytes more. If all that can be unloaded is
    not enough, this rank asks for nothing.
    """
    idle = vaes.idle(in_use)
    if not idle:  # so it is on all ranks
        return
    freed = accumulate((weight_bytes(vaes[name]) for name in idle), initial=0)
    wanted = next((count for count, num_bytes in enumerate(freed) if not is_short(num_bytes)), 0)
    count = int(max(number for (number,) in group.agree([float(wanted)])))
    for name in idle[:count]:
        log.info("unloaded %s, to have room for %s", name, in_use)
        vaes.unload(name)


def unload_after(reason: str, vaes: VaeCache, in_use: str) -> None:
    """Unload all VAEs but one if a job failed for lack of memory, so that the next attempt has more.

    `reason` is what `Group.failure_reason` returns, the same on all ranks.
    """
    if OUT_OF_MEMORY.search(reason):
        for name in vaes.idle(in_use):
            log.info("unloaded %s, because memory ran out", name)
            vaes.unload(name)


def tick_in_layers(group: Group, vae: WanVAE) -> None:
    """Let this rank's watchdog see that a long chunk goes on."""
    if group.watchdog is not None:
        for module in vae.modules():
            module.register_forward_pre_hook(group.watchdog.tick)


def _check_free(needed: int, free: int | None) -> None:
    """Raise ValueError if weights need more bytes than are free."""
    if free is not None and free < needed:
        raise ValueError(f"it needs {needed / 2**30:.1f} GiB and {max(free, 0) / 2**30:.1f} GiB are free")


def _still_there(group: Group, sources: Mapping[str, str]) -> dict[str, str]:
    """The sources whose headers every rank can read. Raises ValueError if there are none."""
    problems: dict[str, ValueError] = {}
    for name, source in sources.items():
        try:
            check(source)
        except ValueError as error:
            log.error("%s: %s", name, error)
            problems[name] = error
    flags = group.agree([float(name not in problems) for name in sources])
    left = {
        name: source for (name, source), *found in zip(sources.items(), *flags, strict=True) if all(found)
    }
    if not left:
        raise next(iter(problems.values()), ValueError("No VAE can be read any more on all ranks."))
    return left
