"""How files are shared out to ranks."""

from __future__ import annotations

import pytest

from wanvae_app.cli.clip_shares import share_out


@pytest.mark.parametrize(
    "sizes, num_ranks, together, alone",
    [
        ([5], 4, [0], [[], [], [], []]),  # one clip keeps all ranks busy
        ([5, 5], 2, [], [[0], [1]]),  # a whole round
        ([5] * 5, 4, [0], [[1], [2], [3], [4]]),  # what is left over
        ([1, 100, 1, 1, 1], 2, [1], [[0, 3], [2, 4]]),  # a large one would keep one rank busy alone
        ([3, 4], 1, [0, 1], [[]]),
    ],
)
def test_whole_rounds_are_coded_alone(
    sizes: list[int], num_ranks: int, together: list[int], alone: list[list[int]]
) -> None:
    assert share_out(sizes, num_ranks) == (together, alone)


def test_one_way_can_be_asked_for() -> None:
    assert share_out([1, 9, 1], 2, each=True) == ([], [[1], [0, 2]])
    assert share_out([5, 5, 5], 2, together=True) == ([0, 1, 2], [[], []])
