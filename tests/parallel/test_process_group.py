"""Group and Watchdog: agreement, commands, and groups that are thrown away and rebuilt, on real ranks."""

from __future__ import annotations

import os
import time

import pytest
import torch
from support.grouped import run_group

from wanvae_app.device import choose_device
from wanvae_app.parallel.process_group import Group


def talk(group: Group) -> dict[str, object]:
    """Commands, agreement and announcements of a rank."""
    seen: dict[str, object] = {}
    heard = []
    for number in range(20):
        if group.rank == 0:
            group.post({"number": number})
        else:
            heard.append(group.next_command()["number"])
        group.agree([0])
    assert heard == list(range(20)) or group.rank == 0
    seen["agreed"] = group.agree([group.rank, 0.1])
    if group.rank == 2:
        group.announce("the cause")
    group.agree([0])
    seen["first"] = group.announce(f"a consequence on {group.rank}")
    seen["reason"] = group.reason()
    return seen


def test_ranks_agree_and_hear_commands_in_order() -> None:
    for seen in run_group(3, talk):
        assert seen["agreed"] == [[0, 0.1], [1, 0.1], [2, 0.1]]
        assert seen["reason"] == "the cause" and not seen["first"]


def exchange(group: Group) -> list[float]:
    """Everybody sends its rank to the next one, on both groups."""
    after, before = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    received = []
    for which in (group.data, group.frames):
        mine, theirs = torch.full((3,), float(group.rank)), torch.empty(3)
        assert which is not None
        which.exchange([(mine, after)], [(theirs, before)])
        received.append(theirs[0].item())
    return received


def held() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def rebuild_often(group: Group) -> tuple[bool, tuple[int, int], tuple[int, int]]:
    before = (group.rank - 1) % group.size
    right = exchange(group) == [before, before]
    for number in range(20):
        group.rebuild()
        right = right and exchange(group) == [before, before]
        if number == 1:
            early = held()
    return right, early, held()


def test_rebuilt_groups_work_and_leave_nothing() -> None:
    for right, early, late in run_group(3, rebuild_often):
        assert right and all(b <= a for a, b in zip(early, late, strict=True)), (early, late)


def wait_for_a_failed_neighbour(group: Group) -> tuple[float, str, list[float]]:
    exchange(group)
    start, message = time.monotonic(), ""
    if group.rank == 1:
        time.sleep(0.3)
        group.drop("data", "frames")
    else:
        try:
            exchange(group)
        except RuntimeError as error:
            message = str(error)
        group.drop("data", "frames")
    seconds = time.monotonic() - start
    group.agree([0])
    group.rebuild()
    return seconds, message, exchange(group)


def test_who_waits_for_a_failed_neighbour_is_woken() -> None:
    for rank, (seconds, message, received) in enumerate(run_group(4, wait_for_a_failed_neighbour)):
        assert seconds < 5, "ranks 2 and 3 are woken by their neighbours, which gave up in turn"
        assert bool(message) == (rank != 1)
        assert received == [(rank - 1) % 4] * 2


def see_a_failure(group: Group) -> tuple[bool, bool, bool]:
    """Whether the watchdog breaks off the groups when another rank announces a failure; never those made after."""
    if group.rank == 0:
        group.post({})
    else:
        group.next_command()
    group.begin()
    whole = not group.broken
    group.agree([0])
    if group.rank == 1:
        group.announce("rigged")
    deadline = time.monotonic() + 5
    while not group.broken and time.monotonic() < deadline:
        time.sleep(0.01)
    broken = group.broken
    group.rebuild()
    time.sleep(1.2)  # the watchdog looks twice in this time
    repaired = not group.broken
    group.end()
    return whole, broken, repaired


def test_the_watchdog_tells_a_rank_that_does_not_wait_on_a_socket() -> None:
    assert run_group(2, see_a_failure) == [(True, True, True)] * 2


def wait_idly(group: Group) -> float:
    """CPU seconds per second of waiting for a command."""
    if group.rank == 0:
        time.sleep(2)
        group.post({})
        return 0.0
    start, cpu = time.monotonic(), time.process_time()
    group.next_command()
    return (time.process_time() - cpu) / (time.monotonic() - start)


def test_waiting_for_a_command_costs_nothing() -> None:
    assert run_group(2, wait_idly)[1] < 0.02


def test_without_torchrun_there_is_a_group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    group = Group.join("cpu")
    assert (group.rank, group.size, group.data, group.frames) == (0, 1, None, None)
    assert group.agree([1, 2.5]) == [[1, 2.5]]
    assert group.announce("alone") and group.reason() == "alone"
    group.rebuild()
    group.close()


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1, 2) == torch.device("cuda", 1)
    assert choose_device("cpu", 1, 2) == torch.device("cpu")
    with pytest.raises(ValueError, match="4 ranks were started for 2 GPUs"):
        choose_device("auto", 1, 4)
    with pytest.raises(ValueError, match="auto, cpu or cuda"):
        choose_device("tpu", 0, 1)
