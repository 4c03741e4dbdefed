"""Real ranks agree, get commands, fail, and rebuild their connections."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from support.grouped import run_group

from wanvae_app.device import choose_device
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.signature import SECRET, sign, verify


class Talk(NamedTuple):
    """What one rank heard."""

    commands: list[int]
    reports: list[list[float]]
    all_below_two: bool
    all_below_three: bool
    failed_first: bool
    failure_reason: str


def talk(group: Group) -> Talk:
    commands = []
    for number in range(20):
        if group.rank == 0:
            group.post({"number": number})
        else:
            commands.append(group.next_command()["number"])
        group.agree([0])
    reports = group.agree([group.rank, 0.1])
    all_below_two = group.holds_on_all_ranks(group.rank < 2)
    all_below_three = group.holds_on_all_ranks(group.rank < 3)
    if group.rank == 2:
        group.announce_failure("the cause")
    group.agree([0])
    failed_first = group.announce_failure(f"a consequence on {group.rank}")
    return Talk(commands, reports, all_below_two, all_below_three, failed_first, group.failure_reason())


def test_ranks_agree_and_get_commands_in_order() -> None:
    for rank, heard in enumerate(run_group(3, talk)):
        assert heard.commands == (list(range(20)) if rank else [])
        assert heard.reports == [[0, 0.1], [1, 0.1], [2, 0.1]]
        assert heard.all_below_three and not heard.all_below_two
        assert heard.failure_reason == "the cause" and not heard.failed_first


def exchange(group: Group) -> list[float]:
    """Send this rank's number to the next rank, over both connections; return what the rank before sent."""
    after, before = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    received = []
    for messages in (group.data, group.frames):
        mine, theirs = torch.full((3,), float(group.rank)), torch.empty(3)
        assert messages is not None
        messages.exchange([(mine, after)], [(theirs, before)])
        received.append(theirs[0].item())
    return received


class Usage(NamedTuple):
    """What this process holds."""

    files: int
    threads: int


def usage() -> Usage:
    return Usage(len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")))


def rebuild_often(group: Group) -> tuple[bool, Usage, Usage]:
    """Return whether all exchanges were right, and the usage after two and after twenty rebuilds."""
    before = (group.rank - 1) % group.size
    right = exchange(group) == [before, before]
    for number in range(20):
        group.rebuild()
        right = right and exchange(group) == [before, before]
        if number == 1:
            early = usage()
    return right, early, usage()


def test_rebuilt_connections_work_and_leave_nothing() -> None:
    for right, early, late in run_group(3, rebuild_often):
        assert right and late.files <= early.files and late.threads <= early.threads, (early, late)


class Wakening(NamedTuple):
    """How a rank got out of an exchange with a rank that failed."""

    seconds: float
    message: str  # of the exception
    received: list[float]  # afterwards


def wait_for_a_failed_neighbour(group: Group) -> Wakening:
    exchange(group)
    start, message = time.monotonic(), ""
    if group.rank == 1:
        time.sleep(0.3)
        group.drop()
    else:
        try:
            exchange(group)
        except RuntimeError as error:
            message = str(error)
        group.drop()
    seconds = time.monotonic() - start
    group.agree([0])
    group.rebuild()
    return Wakening(seconds, message, exchange(group))


def test_ranks_that_wait_for_a_failed_neighbour_are_woken() -> None:
    for rank, found in enumerate(run_group(4, wait_for_a_failed_neighbour)):
        assert found.seconds < 5, "ranks 2 and 3 are woken by their neighbours, which gave up in turn"
        assert bool(found.message) == (rank != 1)
        assert found.received == [(rank - 1) % 4] * 2


class Failure(NamedTuple):
    """What a rank finds of its connections."""

    whole_before: bool
    broken_by_failure: bool
    whole_after_rebuild: bool


def see_a_failure(group: Group) -> Failure:
    """Rank 1 announces a failure; the watchdog aborts the present connections, and not those that are made later."""
    if group.rank == 0:
        group.post({})
    else:
        group.next_command()
    group.begin_job()
    whole = not group.broken
    group.agree([0])
    if group.rank == 1:
        group.announce_failure("rigged")
    deadline = time.monotonic() + 5
    while not group.broken and time.monotonic() < deadline:
        time.sleep(0.01)
    broken = group.broken
    group.rebuild()
    time.sleep(1.2)  # the watchdog looks twice in this time
    repaired = not group.broken
    group.end_job()
    return Failure(whole, broken, repaired)


def test_the_watchdog_tells_a_rank_that_does_not_wait_on_a_socket() -> None:
    assert run_group(2, see_a_failure) == [Failure(True, True, True)] * 2


def wait_idly(group: Group) -> float:
    """Return the CPU seconds that a second of waiting for a command takes."""
    if group.rank == 0:
        time.sleep(2)
        group.post({})
        return 0.0
    start, cpu = time.monotonic(), time.process_time()
    group.next_command()
    return (time.process_time() - cpu) / (time.monotonic() - start)


def test_waiting_for_a_command_costs_nothing() -> None:
    assert run_group(2, wait_idly)[1] < 0.02


def test_without_torchrun_there_is_a_single_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    group = Group.join("cpu")
    assert (group.rank, group.size, group.data, group.frames) == (0, 1, None, None)
    assert group.agree([1, 2.5]) == [[1, 2.5]]
    assert group.holds_on_all_ranks(True) and not group.holds_on_all_ranks(False)
    assert group.announce_failure("alone") and group.failure_reason() == "alone"
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


def obey_rank_0_alone(group: Group) -> list[object]:
    """What rank 1 hears when a stranger has put a command into the store, and rank 0 posts its own a while later."""
    if group.rank == 0:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        stranger = dist.PrefixStore("wanvae/0", dist.TCPStore(host, port, group.size, False))
        stranger.set("command/1", '{"end": true}')
        time.sleep(0.5)
        group.post({"number": 1})
        return []
    return [group.next_command()]


def test_a_strangers_command_is_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "known to the ranks alone")
    assert run_group(2, obey_rank_0_alone) == [[], [{"number": 1}]]


def test_a_signature_holds_for_one_text_key_and_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "one")
    signed = sign('{"end": true}', "command/1")
    assert verify(signed, "command/1") == '{"end": true}'
    assert verify(signed, "command/2") is None and verify(signed + " ", "command/1") is None
    assert verify("", "command/1") is None and verify("\N{SNOWMAN}" * 70, "command/1") is None
    monkeypatch.setenv(SECRET, "another")
    assert verify(signed, "command/1") is None
