"""The kernels of the link, in Triton's interpreter: one side of an exchange, the neighbour's part done beforehand.

On several GPUs tests/fast/test_gpu.py uses the whole of it.
"""

from __future__ import annotations

import pytest
import torch
from support.peers import Alone
from torch import Tensor

from wanvae_app.kernels import mailbox as places
from wanvae_app.kernels.mailbox import PROGRAMS, UNIT
from wanvae_app.kernels.padded_frames import PaddedFramePool
from wanvae_app.parallel import peer_memory
from wanvae_app.parallel import shard as shard_module
from wanvae_app.parallel.shard import COLUMNS, ROWS, Shard

triton = pytest.importorskip("triton")
from wanvae_app.fast.exchange import activate, activate_transformed  # noqa: E402
from wanvae_app.kernels import norm as norm_kernel  # noqa: E402

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there the kernels run on GPUs, between them"
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("shape", [(4, 6, 9, 16), (3, 3, 40, 8), (3, 300, 5, 8)])
def test_borders(columns: bool, rank: int, shape: tuple[int, int, int, int]) -> None:
    neighbours = Alone(rank, 3)
    frames = torch.randn(shape).bfloat16()
    slots = [shape[0] - 1, 1]
    edges = frames if not columns else frames.transpose(1, 2)  # a view: the cut first
    mine = {"before": edges[slots, 1].contiguous(), "after": edges[slots, -2].contiguous()}
    theirs = {side: torch.randn(x.shape).bfloat16() for side, x in mine.items()}
    for side, x in theirs.items():
        neighbours.hear(side, [x.view(torch.int64)])
    expected = frames.clone()
    lines = expected if not columns else expected.transpose(1, 2)
    if rank > 0:
        lines[slots, 0] = theirs["before"]
    if rank < 2:
        lines[slots, -1] = theirs["after"]
    sequence = neighbours.fill_borders(frames, torch.tensor(slots, dtype=torch.int32), columns, 0, 3)
    assert sequence == 1 and torch.equal(frames, expected)
    for side in ["before"] * (rank > 0) + ["after"] * (rank < 2):
        words = mine[side].view(torch.int64).flatten()
        assert torch.equal(neighbours.told(side, 0, words.numel()), words)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 4, 7, 16), (3, 1, 38, 24), (1, 298, 1, 8), (2, 3, 70, 384)])
@pytest.mark.parametrize("norm", [True, False])
def test_borders_of_frames_that_are_being_written(
    columns: bool, rank: int, shape: tuple[int, int, int, int], norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_frames, height, width, c = shape
    neighbours = Alone(rank, 3)
    shard = Shard(COLUMNS if columns else ROWS, (0, 1, 2, 3), rank, None, neighbours)
    frames = PaddedFramePool(height, width, c, torch.bfloat16, torch.device("cpu"))
    slots = frames.take(num_frames + 1)[:0:-1]
    frames.data.zero_()
    x, gamma = torch.randn(shape).bfloat16(), torch.randn(c).bfloat16() if norm else None
    norm_kernel.activate(x, gamma, frames, slots)  # nobody there
    expected = frames.data.clone()
    lines = expected if not columns else expected.transpose(1, 2)
    mine = {"before": lines[slots, 1, 1:-1].contiguous(), "after": lines[slots, -2, 1:-1].contiguous()}
    theirs = {side: torch.randn(x.shape).bfloat16() for side, x in mine.items()}
    for side, x_ in theirs.items():
        neighbours.hear(side, [x_.view(torch.int64)])
    if rank > 0:
        lines[slots, 0, 1:-1] = theirs["before"]
    if rank < 2:
        lines[slots, -1, 1:-1] = theirs["after"]
    frames.data[list(slots), 1:-1, 1:-1] = float("nan")
    activate(x, gamma, frames, slots, shard)
    assert torch.equal(frames.data, expected) and shard.sequence == 1
    sides = ["before"] * (rank > 0) + ["after"] * (rank < 2)
    for side in sides:
        words, programs = mine[side].view(torch.int64).flatten(), 4096 // triton.next_power_of_2(c)
        raised = min(-(-num_frames * mine[side].shape[1] // programs), PROGRAMS)
        assert torch.equal(neighbours.told(side, 0, words.numel(), raised), words)
    assert shard.sent == sum(mine[side].nbytes for side in sides)
    # A message longer than its place is not for one launch.
    monkeypatch.setattr(shard_module, "CAPACITY", mine["before"].nbytes // UNIT - 1)
    assert shard.neighbours(frames.data, num_frames) is None


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("shape", [(4, 2, 7, 16), (8, 1, 38, 24), (4, 298, 2, 8), (4, 3, 70, 384)])
def test_borders_of_frames_that_are_being_transformed(
    columns: bool, rank: int, shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with messages, which tests/fast/test_exchange.py holds against float64."""
    num_frames, height, width, c = shape
    x, gamma = torch.randn(shape).bfloat16(), torch.randn(c).bfloat16()
    bounds, dim = (0, 1, 2, 3), COLUMNS if columns else ROWS
    length = height if columns else width
    mine: list[Tensor] = []
    theirs = [torch.randn(length, num_frames, c).half() for _ in range(2)]
    by_message = Shard(dim, bounds, rank, None)
    monkeypatch.setattr(by_message, "swap", lambda *sides: mine.extend(sides) or theirs)
    neighbours = Alone(rank, 3)
    for side, words in zip(("before", "after"), theirs, strict=True):
        neighbours.hear(side, [words.view(torch.int64)])
    by_link = Shard(dim, bounds, rank, None, neighbours)
    found = []
    for shard in (by_message, by_link):
        frames = PaddedFramePool(height, width, c, torch.float16, CPU)
        slots = frames.take(4 + num_frames // 4 * 6 + 1)[:0:-1]
        frames.data.zero_()
        frames.data[list(slots[:2]), 1:-1, 1:-1] = 0.5
        activate_transformed(x, gamma, frames, slots, shard)
        found.append(frames.data)
    assert torch.equal(*found) and by_link.sequence == 1
    sides = [("before", mine[0])] * (rank > 0) + [("after", mine[1])] * (rank < 2)
    for side, sent in sides:
        words = sent.view(torch.int64).flatten()
        assert torch.equal(neighbours.told(side, 0, words.numel(), min(length, PROGRAMS)), words)
    assert by_link.sent == sum(sent.nbytes for _, sent in sides)


def test_a_message_longer_than_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CAPACITY", 256)
    neighbours = Alone(1, 2)
    first, final, theirs = (torch.randn(5, 400) for _ in range(3))  # 500 units
    neighbours.hear("before", list(theirs.view(torch.int64).flatten().split(512)))
    above, below, sequence = neighbours.swap(first, final, 0, 2)
    assert torch.equal(above, theirs) and not below.any() and sequence == 2
    words = first.view(torch.int64).flatten()
    assert torch.equal(
        torch.cat([neighbours.told("before", 0, 512), neighbours.told("before", 1, 488)]), words
    )


def test_a_rest() -> None:
    neighbours = Alone(1, 3)
    for side in ("before", "after"):
        neighbours.hear(side, [torch.zeros(2, dtype=torch.int64)] * 2)
    assert neighbours.rest(7, 3) == 8
    for side in ("before", "after"):
        assert not neighbours.told(side, 1, 2).any()


class Event:
    """The end of what the interpreter does at once, or of what never ends."""

    ended = True

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.ended


@pytest.mark.parametrize("fault", ["", "lost", "stuck"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_whether_it_works(rank: int, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(Event, "ended", fault != "stuck")
    monkeypatch.setattr(peer_memory, "FIRST_EXCHANGE_TIMEOUT", 0.01)
    others = Alone(rank, 3)
    others._device, others._token_flags = torch.device("cpu"), torch.zeros(3, dtype=torch.int64)
    for side, peer in (("before", rank - 1), ("after", rank + 1)):
        others.hear(side, [torch.full((4096,), peer if fault != "lost" else 7)])
    assert others.delivers() == (fault == "")
    assert bool(others._abort) == (fault == "stuck")


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_tokens(rank: int) -> None:
    others = Alone(rank, 3)
    bounds, num_frames, channels = (0, 7, 12, 20), 2, 24
    tokens = torch.randn(num_frames, 20, channels).bfloat16()
    all_gather_tokens = torch.zeros(3, tokens.nbytes // 8, dtype=torch.int64)
    others._tokens = all_gather_tokens[rank], torch.tensor([x.data_ptr() for x in all_gather_tokens])
    flags = others.handle.memory[:, 4 * places.CAPACITY * 2 :].view(torch.int32)[:, 4 * PROGRAMS :]
    flags = flags.unflatten(1, (-1, PROGRAMS))  # [of, raised by, program]
    others._token_flags = torch.tensor([x.data_ptr() for x in flags])
    for peer in {0, 1, 2} - {rank}:
        part = slice(bounds[peer], bounds[peer + 1])
        all_gather_tokens[rank].view(torch.bfloat16).view(tokens.shape)[:, part] = tokens[:, part]
        flags[rank, peer] = 1
    part = slice(bounds[rank], bounds[rank + 1])
    assert others.has_room(tokens.nbytes) and not others.has_room(tokens.nbytes + 1)
    assert torch.equal(others.gather(tokens[:, part].contiguous(), bounds[rank], 20, 3), tokens)
    for peer in {0, 1, 2} - {rank}:
        assert torch.equal(
            all_gather_tokens[peer].view(torch.bfloat16).view(tokens.shape)[:, part], tokens[:, part]
        )
        assert flags[peer, rank].tolist() == [1] + [0] * (PROGRAMS - 1)
        assert flags[rank, peer].tolist() == [0] + [1] * (PROGRAMS - 1)
