"""Exchanges through peer memory, in Triton's interpreter: one rank's side, after its neighbours have sent.

On several GPUs tests/fast/test_gpu.py exchanges rows between real ranks.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")  # none for this platform
import triton
from support.peers import Alone

from wanvae_app.fast.exchange import activate, activate_transformed
from wanvae_app.kernels import mailbox
from wanvae_app.kernels import norm as norm_kernel
from wanvae_app.kernels.mailbox import PROGRAMS, UNIT
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.parallel import peer_access
from wanvae_app.parallel import shard as shard_module
from wanvae_app.parallel.partition import COLUMNS, ROWS
from wanvae_app.parallel.shard import Shard

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there the kernels run on GPUs, between them"
)

CPU = torch.device("cpu")


def sides_of(rank: int) -> list[str]:
    """On which sides `rank`, one of three, has a neighbour."""
    return ["before"] * (rank > 0) + ["after"] * (rank < 2)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("shape", [(4, 6, 9, 16), (3, 3, 40, 8), (3, 300, 5, 8)])
def test_borders(columns: bool, rank: int, shape: tuple[int, int, int, int]) -> None:
    peer_memory = Alone(rank, 3)
    frames = torch.randn(shape).bfloat16()
    slots = [shape[0] - 1, 1]
    lines = frames.transpose(1, 2) if columns else frames  # a view of [slots, lines along the cut, ...]
    mine = {"before": lines[slots, 1].contiguous(), "after": lines[slots, -2].contiguous()}
    theirs = {side: torch.randn(x.shape).bfloat16() for side, x in mine.items()}
    for side, x in theirs.items():
        peer_memory.hear(side, [x.view(torch.int64)])
    expected = frames.clone()
    lines = expected.transpose(1, 2) if columns else expected
    if rank > 0:
        lines[slots, 0] = theirs["before"]
    if rank < 2:
        lines[slots, -1] = theirs["after"]
    sequence = peer_memory.fill_halo(frames, torch.tensor(slots, dtype=torch.int32), columns, 0, 3)
    assert sequence == 1 and torch.equal(frames, expected)
    for side in sides_of(rank):
        words = mine[side].view(torch.int64).flatten()
        assert torch.equal(peer_memory.told(side, 0, words.numel()), words)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 4, 7, 16), (3, 1, 38, 24), (1, 298, 1, 8), (2, 3, 70, 384)])
@pytest.mark.parametrize("norm", [True, False])
def test_borders_of_frames_that_are_being_written(
    columns: bool, rank: int, shape: tuple[int, int, int, int], norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_frames, height, width, c = shape
    peer_memory = Alone(rank, 3)
    shard = Shard(COLUMNS if columns else ROWS, (0, 1, 2, 3), rank, None, peer_memory)
    frames = PaddedFramePool(height, width, c, torch.bfloat16, CPU)
    slots = frames.take(num_frames + 1)[:0:-1]
    frames.data.zero_()
    x, gamma = torch.randn(shape).bfloat16(), torch.randn(c).bfloat16() if norm else None
    norm_kernel.activate(x, gamma, frames, slots)  # nobody there
    expected = frames.data.clone()
    lines = expected.transpose(1, 2) if columns else expected
    mine = {"before": lines[slots, 1, 1:-1].contiguous(), "after": lines[slots, -2, 1:-1].contiguous()}
    theirs = {side: torch.randn(rows.shape).bfloat16() for side, rows in mine.items()}
    for side, rows in theirs.items():
        peer_memory.hear(side, [rows.view(torch.int64)])
    if rank > 0:
        lines[slots, 0, 1:-1] = theirs["before"]
    if rank < 2:
        lines[slots, -1, 1:-1] = theirs["after"]
    frames.data[list(slots), 1:-1, 1:-1] = float("nan")
    activate(x, gamma, frames, slots, shard)
    assert torch.equal(frames.data, expected) and shard.sequence == 1
    for side in sides_of(rank):
        words, pixels_per_program = mine[side].view(torch.int64).flatten(), 4096 // triton.next_power_of_2(c)
        num_programs = min(-(-num_frames * mine[side].shape[1] // pixels_per_program), PROGRAMS)
        assert torch.equal(peer_memory.told(side, 0, words.numel(), num_programs), words)
    assert shard.sent_bytes == sum(mine[side].nbytes for side in sides_of(rank))
    # One launch cannot exchange rows that are longer than a mailbox.
    monkeypatch.setattr(shard_module, "CAPACITY", mine["before"].nbytes // UNIT - 1)
    assert shard.reserve_exchange(frames.data, num_frames) is None


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("shape", [(4, 2, 7, 16), (8, 1, 38, 24), (4, 298, 2, 8), (4, 3, 70, 384)])
def test_borders_of_frames_that_are_being_transformed(
    columns: bool, rank: int, shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with messages, which tests/fast/test_exchange.py compares with float64."""
    num_frames, height, width, c = shape
    x, gamma = torch.randn(shape).bfloat16(), torch.randn(c).bfloat16()
    bounds, dim = (0, 1, 2, 3), COLUMNS if columns else ROWS
    length = height if columns else width
    mine: list[Tensor] = []
    theirs = [torch.randn(length, num_frames, c).half() for _ in range(2)]
    by_message = Shard(dim, bounds, rank, None)
    monkeypatch.setattr(by_message, "exchange_rows", lambda *rows: mine.extend(rows) or theirs)
    peer_memory = Alone(rank, 3)
    for side, rows in zip(("before", "after"), theirs, strict=True):
        peer_memory.hear(side, [rows.view(torch.int64)])
    by_peer_memory = Shard(dim, bounds, rank, None, peer_memory)
    found = []
    for shard in (by_message, by_peer_memory):
        frames = PaddedFramePool(height, width, c, torch.float16, CPU)
        slots = frames.take(4 + num_frames // 4 * 6 + 1)[:0:-1]
        frames.data.zero_()
        frames.data[list(slots[:2]), 1:-1, 1:-1] = 0.5
        activate_transformed(x, gamma, frames, slots, shard)
        found.append(frames.data)
    assert torch.equal(*found) and by_peer_memory.sequence == 1
    sent = dict(zip(("before", "after"), mine, strict=True))
    for side in sides_of(rank):
        words = sent[side].view(torch.int64).flatten()
        assert torch.equal(peer_memory.told(side, 0, words.numel(), min(length, PROGRAMS)), words)
    assert by_peer_memory.sent_bytes == sum(sent[side].nbytes for side in sides_of(rank))


def test_rows_longer_than_a_mailbox_take_several_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "CAPACITY", 256)
    peer_memory = Alone(1, 2)
    first, final, theirs = (torch.randn(5, 400) for _ in range(3))  # 500 units
    peer_memory.hear("before", list(theirs.view(torch.int64).flatten().split(512)))
    above, below, sequence = peer_memory.exchange_rows(first, final, 0, 2)
    assert torch.equal(above, theirs) and not below.any() and sequence == 2
    words = first.view(torch.int64).flatten()
    sent = torch.cat([peer_memory.told("before", 0, 512), peer_memory.told("before", 1, 488)])
    assert torch.equal(sent, words)


def test_an_exchange_of_nothing() -> None:
    peer_memory = Alone(1, 3)
    for side in ("before", "after"):
        peer_memory.hear(side, [torch.zeros(2, dtype=torch.int64)] * 2)
    assert peer_memory.exchange_nothing(7, 3) == 8
    for side in ("before", "after"):
        assert not peer_memory.told(side, 1, 2).any()


class Event:
    """A CUDA event behind an exchange that has ended, or that never ends."""

    ended = True

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.ended


@pytest.mark.parametrize("fault", ["", "lost", "stuck"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_lost_rows_are_noticed(rank: int, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(Event, "ended", fault != "stuck")
    monkeypatch.setattr(peer_access, "FIRST_EXCHANGE_TIMEOUT", 0.01)
    peer_memory = Alone(rank, 3)
    peer_memory.device, peer_memory._token_flags = CPU, torch.zeros(3, dtype=torch.int64)
    for side, peer in (("before", rank - 1), ("after", rank + 1)):
        peer_memory.hear(side, [torch.full((4096,), peer if fault != "lost" else 7)])
    assert peer_access.rows_arrive(peer_memory) == (fault == "")
    assert bool(peer_memory._abort) == (fault == "stuck")


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_tokens(rank: int) -> None:
    peer_memory = Alone(rank, 3)
    bounds, num_frames, channels = (0, 7, 12, 20), 2, 24
    tokens = torch.randn(num_frames, 20, channels).bfloat16()
    memory = torch.zeros(3, tokens.nbytes // 8, dtype=torch.int64)  # of all ranks
    arrived = [x.view(torch.bfloat16).view(tokens.shape) for x in memory]
    peer_memory._tokens = memory[rank], torch.tensor([x.data_ptr() for x in memory])
    flags = peer_memory.handle.memory[:, 4 * mailbox.CAPACITY * 2 :].view(torch.int32)[:, 4 * PROGRAMS :]
    flags = flags.unflatten(1, (-1, PROGRAMS))  # [whose memory, raised by, program]
    peer_memory._token_flags = torch.tensor([x.data_ptr() for x in flags])
    for peer in {0, 1, 2} - {rank}:
        part = slice(bounds[peer], bounds[peer + 1])
        arrived[rank][:, part] = tokens[:, part]
        flags[rank, peer] = 1
    part = slice(bounds[rank], bounds[rank + 1])
    assert peer_memory.has_room_for_tokens(tokens.nbytes)
    assert not peer_memory.has_room_for_tokens(tokens.nbytes + 1)
    gathered = peer_memory.all_gather_tokens(tokens[:, part].contiguous(), bounds[rank], 20, 3)
    assert torch.equal(gathered, tokens)
    for peer in {0, 1, 2} - {rank}:
        assert torch.equal(arrived[peer][:, part], tokens[:, part])
        assert flags[peer, rank].tolist() == [1] + [0] * (PROGRAMS - 1)
        assert flags[rank, peer].tolist() == [0] + [1] * (PROGRAMS - 1)
