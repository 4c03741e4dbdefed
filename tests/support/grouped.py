"""Real processes that join a Group."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import traceback
from collections.abc import Callable
from typing import Any

import torch

from wanvae_app.cli.ports import free_port
from wanvae_app.parallel.process_group import Group


def run_group(
    size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 60,
    device: str = "cpu",
    environment: dict[str, str] | None = None,
) -> list[Any]:
    """Call function(group, *args) on `size` ranks, and return the results, by rank.

    `environment` is added to the ranks' environment before they join their group.

    Raises RuntimeError with a rank's traceback, or TimeoutError if a rank takes longer than `timeout` seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "wanvae_app.codec"])
    port = free_port()
    results = context.Queue()
    processes = [
        context.Process(
            target=_rank,
            args=(rank, size, port, device, environment or {}, function, args, results),
            daemon=True,
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        found: dict[int, Any] = {}
        while len(found) < size:
            try:
                rank, result, error = results.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError(
                    f"only ranks {sorted(found)} of {size} answered in {timeout:g} s"
                ) from None
            if error:
                raise RuntimeError(f"rank {rank}:\n{error}")
            found[rank] = pickle.loads(result)
        return [found[rank] for rank in range(size)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(
    rank: int,
    size: int,
    port: int,
    device: str,
    environment: dict[str, str],
    function: Callable[..., Any],
    args: tuple,
    results: Any,
) -> None:
    os.environ.update(
        environment,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(size),
    )
    torch.set_num_threads(1)
    try:
        group = Group.join(device)
        # Pickled here, because a queue passes tensors by file descriptors, which this process closes at its end.
        results.put((rank, pickle.dumps(function(group, *args)), None))
        group.agree([0.0])  # rank 0 serves the store, so it must not leave before the others
    except Exception:
        results.put((rank, None, traceback.format_exc()))
