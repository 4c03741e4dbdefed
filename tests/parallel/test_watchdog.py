"""The watchdog tells a rank that hangs from one that works and one that waits, on real ranks."""

from __future__ import annotations

import ast
import inspect
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from support.grouped import run_group

from wanvae_app.jobs import rank_task
from wanvae_app.parallel import frame_gather, messages, shard
from wanvae_app.parallel import gather as gather_module
from wanvae_app.parallel import watchdog as watchdog_module
from wanvae_app.parallel.frame_gather import MAX_PENDING, FrameCollector, FrameSender
from wanvae_app.parallel.gather import gather, scatter
from wanvae_app.parallel.partition import ROWS
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

IDLE_LIMIT = 0.3  # seconds, in place of the watchdog's own
WAIT = 0.9  # seconds that a rank is made to wait
PIXELS = torch.zeros(1, 1, 2**21, 3, dtype=torch.uint8)  # more bytes than a socket buffers


def two_rows(group: Group) -> Shard:
    """A picture of two rows, one on each rank."""
    return Shard(ROWS, (0, 1, 2), group.rank, group.data)


def begin_watched_job(group: Group) -> list[str]:
    """Begin a job. Returns the steps, added as time goes on, for which the watchdog would have ended this rank."""
    watchdog = group.watchdog
    assert watchdog is not None
    ended: list[str] = []
    watchdog._end_self = lambda seconds: ended.append(watchdog._where)  # type: ignore[method-assign]
    watchdog.on_failure = lambda number: None
    group.post({}) if group.rank == 0 else group.next_command()
    group.begin_job()
    return ended


def be_stuck(group: Group) -> list[bool]:
    """Rank 1 does nothing, computes, and computes for too long, each for 2.5 seconds; rank 0 waits for it.

    Returns in which of these cases the watchdog would have ended this rank.
    """
    assert group.watchdog is not None
    watchdog_module.TIME_TO_DRAIN = 0.5
    group.watchdog.idle_limit = 1.0
    ended = begin_watched_job(group)
    for case in ("idle", "busy", "too busy"):
        group.watchdog.step_limit = 1.0 if case == "too busy" else 60.0
        group.agree([0])
        with group.watchdog.working(case):
            if group.rank == 1:
                end = time.monotonic() + 2.5
                while case != "idle" and time.monotonic() < end:
                    torch.ones(100_000).sum()
                time.sleep(max(0.0, end - time.monotonic()))
            gather(group, two_rows(group), torch.zeros(1), (2,), 0)
    group.end_job()
    return [case in ended for case in ("idle", "busy", "too busy")]


def test_a_stuck_rank_is_told_from_a_busy_and_a_waiting_one() -> None:
    waiting, stuck = run_group(2, be_stuck)
    assert stuck == [True, False, True]
    assert waiting == [False, False, False], "a rank that waits for another one is not to blame"


def wait_for_rows(group: Group) -> None:
    two_rows(group).halo(torch.zeros(1, 1, 1, 1, 1), 1, 1)


def wait_for_tokens(group: Group) -> None:
    two_rows(group).all_gather_tokens(torch.zeros(1, 1, 1))


def wait_for_a_slab(group: Group) -> None:
    whole = torch.zeros(1, 1, 1, 2, 1) if group.rank == 0 else None
    scatter(group, two_rows(group), whole, (1, 1, 1, 2, 1), torch.float32, 3)


def wait_for_latents(group: Group) -> None:
    gather(group, two_rows(group), torch.zeros(1, 1, 1, 1, 1), (1, 1, 1, 2, 1), 3)


def collect(group: Group, num_chunks: int, seconds: float) -> None:
    """Rank 0 collects chunks, and takes so long to deliver each."""

    def deliver(frames: np.ndarray) -> None:
        assert frames.shape == (1, 2, 2**21, 3)
        time.sleep(seconds)

    collector = FrameCollector(group, two_rows(group), deliver)
    for _ in range(num_chunks):
        collector.put(PIXELS)
    collector.finish()


def send(group: Group, num_chunks: int) -> None:
    sender = FrameSender(group)
    for _ in range(num_chunks):
        sender.put(PIXELS)
    sender.finish()


def wait_for_delivery(group: Group) -> None:
    """Rank 0 waits in `put` for room in its queue, and in `finish` for the last chunks."""
    if group.rank == 0:
        collect(group, MAX_PENDING + 2, WAIT)
    else:
        send(group, MAX_PENDING + 2)


def wait_for_frames(group: Group) -> None:
    """Rank 0 waits in `finish` for frames that are not sent yet, or rank 1 until they are received."""
    collect(group, 1, 0.0) if group.rank == 0 else send(group, 1)


class Wait(NamedTuple):
    """One way in which a rank waits for the other one."""

    function: Callable[[Group], None]
    waiting_rank: int
    other_is_late: bool = True  # else the other rank is slow within the function


WAITS = {
    "rows": Wait(wait_for_rows, 0),
    "tokens": Wait(wait_for_tokens, 0),
    "slab": Wait(wait_for_a_slab, 1),
    "latents": Wait(wait_for_latents, 0),
    "frames": Wait(wait_for_frames, 0),
    "delivery": Wait(wait_for_delivery, 0, other_is_late=False),
    "sending": Wait(wait_for_frames, 1),
    "sending many": Wait(wait_for_delivery, 1),
}


def wait_in_all_ways(group: Group) -> list[str]:
    """Return the waits for which the watchdog would have ended this rank, though the other one kept it waiting."""
    watchdog = group.watchdog
    assert watchdog is not None
    watchdog.idle_limit, watchdog.period = IDLE_LIMIT, 0.05
    ended = begin_watched_job(group)
    for name, wait in WAITS.items():
        group.agree([0])
        if wait.other_is_late and group.rank != wait.waiting_rank:
            time.sleep(WAIT)
        with watchdog.working(name):
            wait.function(group)
    group.end_job()
    return sorted(set(ended))


def test_a_rank_that_waits_for_another_rank_or_thread_is_not_blamed() -> None:
    assert run_group(2, wait_in_all_ways) == [[], []]


BLOCKING = ("wait", "join")  # methods that wait, besides a queue's `put` with a time-out
MARKED = ("self.wait",)  # of `Messages`: it opens a `waiting` block itself
OTHER_THREADS = ("_assemble", "_loop", "abandon")  # run where the watchdog does not look, or after a failure


@pytest.mark.parametrize("module", [messages, rank_task, gather_module, frame_gather, shard])
def test_what_blocks_the_working_thread_is_marked(module: object) -> None:
    """A new wait belongs in a `waiting` block, or its function in OTHER_THREADS."""
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name in OTHER_THREADS:
            continue
        marked = {
            inner
            for block in ast.walk(function)
            if isinstance(block, ast.With) and any("waiting()" in ast.unparse(i) for i in block.items)
            for inner in ast.walk(block)
        }
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call not in marked:
                blocks = call.func.attr == "put" and any(k.arg == "timeout" for k in call.keywords)
                blocks |= call.func.attr in BLOCKING and ast.unparse(call.func) not in MARKED
                assert not blocks, f"{function.name}: {ast.unparse(call)} waits outside of `waiting`"
