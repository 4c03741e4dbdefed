"""The watchdog tells a rank that hangs from one that works and one that waits, on real ranks."""

from __future__ import annotations

import ast
import inspect
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.grouped import run_group

from wanvae_app.jobs import rank_task as part
from wanvae_app.parallel import gather as relay
from wanvae_app.parallel import messages, shard
from wanvae_app.parallel.gather import MAX_PENDING, FrameCollector, FrameSender, gather, scatter
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import Shard

HUNG = 0.3  # seconds, in place of some more
WAIT = 0.9  # seconds that a rank is made to wait
PIXELS = torch.zeros(1, 1, 2**21, 3, dtype=torch.uint8)  # more than a socket takes before anybody reads


def two_rows(group: Group) -> Shard:
    return Shard(3, (0, 1, 2), group.rank, group.data)


def be_stuck(group: Group) -> list[bool]:
    """Whether the watchdog would have ended this rank while rank 1 did nothing, computed, and computed for too long,
    each for 2.5 seconds, and rank 0 waited for it."""
    assert group.watchdog is not None
    group.watchdog.hung = 1.0
    ended: list[str] = []
    group.watchdog._end_self = lambda seconds: ended.append(group.watchdog._where)  # type: ignore[method-assign]
    group.post({}) if group.rank == 0 else group.next_command()
    group.begin()
    for case in ("idle", "busy", "too busy"):
        group.watchdog.layer_timeout = 1.0 if case == "too busy" else 60.0
        group.agree([0])
        with group.watchdog.working(case):
            if group.rank == 1:
                end = time.monotonic() + 2.5
                while case != "idle" and time.monotonic() < end:
                    torch.ones(100_000).sum()
                time.sleep(max(0.0, end - time.monotonic()))
            relay.gather(group, two_rows(group), torch.zeros(1), (2,), 0)
    group.end()
    return [case in ended for case in ("idle", "busy", "too busy")]


def test_a_stuck_rank_is_told_from_a_busy_and_a_waiting_one() -> None:
    waits, stuck = run_group(2, be_stuck)
    assert stuck == [True, False, True]
    assert waits[:2] == [False, False], "who waits for another rank is not to blame"


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
    """Rank 0 needs so long to deliver each chunk."""

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


# Which rank waits, and whether the other one comes late.
WAITS: dict[str, tuple[Callable[[Group], None], int, bool]] = {
    "rows": (wait_for_rows, 0, True),
    "tokens": (wait_for_tokens, 0, True),
    "slab": (wait_for_a_slab, 1, True),
    "latents": (wait_for_latents, 0, True),
    "frames": (wait_for_frames, 0, True),
    "delivery": (wait_for_delivery, 0, False),
    "sending": (wait_for_frames, 1, True),
    "sending many": (wait_for_delivery, 1, True),
}


def blamed_while_waiting(group: Group) -> list[str]:
    """In which of the waits the watchdog would have ended this rank, though the other one kept it waiting."""
    watchdog = group.watchdog
    assert watchdog is not None
    watchdog.hung, watchdog.period = HUNG, 0.05
    blamed: list[str] = []
    watchdog._end_self = lambda seconds: blamed.append(watchdog._where)  # type: ignore[method-assign]
    group.post({}) if group.rank == 0 else group.next_command()
    group.begin()
    for name, (wait, waiter, late) in WAITS.items():
        group.agree([0])
        if late and group.rank != waiter:
            time.sleep(WAIT)
        with watchdog.working(name):
            wait(group)
    group.end()
    return sorted(set(blamed))


def test_who_waits_for_another_rank_or_thread_is_not_blamed() -> None:
    assert run_group(2, blamed_while_waiting) == [[], []]


BLOCKING = ("wait", "join")  # and `put` with a time-out, of a queue
MARKED = ("self.wait",)  # of `Messages`, which marks itself
OTHER_THREADS = (
    "_assemble",
    "_loop",
    "abandon",
)  # are run by threads that nobody watches, or after a failure


@pytest.mark.parametrize("module", [messages, part, relay, shard])
def test_what_blocks_the_working_thread_is_marked(module: object) -> None:
    """Whoever adds a wait must put it into a `waiting` block, or say here that no working thread comes there."""
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
