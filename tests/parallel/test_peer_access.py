"""All ranks use peer memory, or none does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wanvae_app.parallel import peer_access
from wanvae_app.parallel.peer_access import connect_peer_memory

GPU = torch.device("cuda", 0)


class FakePeerMemory:
    """Peer memory that only exists."""

    def __init__(self, *_: Any) -> None:
        pass


class BrokenPeerMemory:
    """Peer memory that the driver refuses."""

    def __init__(self, *_: Any) -> None:
        raise RuntimeError("no such address")


@pytest.mark.parametrize(
    ("peer_memory", "reachable", "rows_arrive", "others", "questions"),
    [
        (FakePeerMemory, True, True, [True, True], [True, True]),
        (None, True, True, [True], [False]),  # no Triton here
        (FakePeerMemory, False, True, [True], [False]),
        (FakePeerMemory, True, True, [False], [True]),  # out of reach for another rank
        (BrokenPeerMemory, True, True, [True, True], [True, False]),
        (FakePeerMemory, True, False, [True, True], [True, False]),
        (FakePeerMemory, True, True, [True, False], [True, True]),  # rows are lost on another rank
    ],
)
def test_all_ranks_decide_alike(
    peer_memory: type[Any] | None,
    reachable: bool,
    rows_arrive: bool,
    others: list[bool],
    questions: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`others` is what all other ranks answer, and `questions` what this rank says: as many as they ask each other."""
    monkeypatch.setattr(peer_access, "_import_peer_memory", lambda: peer_memory)
    monkeypatch.setattr(peer_access, "_can_reach_peers", lambda size, device: reachable)
    monkeypatch.setattr(peer_access, "rows_arrive", lambda _: rows_arrive)
    said: list[bool] = []

    def holds_on_all_ranks(condition: bool) -> bool:
        said.append(condition)
        return condition and others[len(said) - 1]

    found = connect_peer_memory(0, 2, GPU, holds_on_all_ranks)
    assert said == questions
    assert (found is not None) == (len(said) == 2 and all(said) and all(others))


@pytest.mark.parametrize(("value", "expected"), [("0", False), ("1", True), ("", True)])
def test_the_link_can_be_forced_off(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank's variable is enough: the others hear that it does not use peer memory."""
    monkeypatch.setenv("WANVAE_PEER_MEMORY", value)
    monkeypatch.setattr(peer_access, "_import_peer_memory", lambda: FakePeerMemory)
    monkeypatch.setattr(peer_access, "_can_reach_peers", lambda size, device: True)
    monkeypatch.setattr(peer_access, "rows_arrive", lambda _: True)
    said: list[bool] = []

    def holds_on_all_ranks(condition: bool) -> bool:
        said.append(condition)
        return condition

    assert (connect_peer_memory(0, 2, GPU, holds_on_all_ranks) is not None) == expected
    assert said[0] == expected


def test_cpu_ranks_use_messages_without_asking() -> None:
    assert connect_peer_memory(0, 2, torch.device("cpu"), lambda _: pytest.fail("asked")) is None
