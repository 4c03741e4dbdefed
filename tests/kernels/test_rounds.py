"""How tiles are divided among clusters and launches: every tile once, and few idle multiprocessors.

python -m pytest tests/kernels/test_rounds.py
"""

from __future__ import annotations

import pytest
import torch

from wanvae_app.kernels import rounds, upsample_conv, winograd


def launches_of(
    n: int, frames_per_tile: int, num_regions: int, norm: bool, num_clusters: int = 66
) -> list[rounds.Launch]:
    """The launches for n channels of 384 in."""
    costs = winograd.COSTS[frames_per_tile]
    width = rounds.choose_width(n, costs, None if norm else num_regions, num_clusters)
    return rounds.plan_launches(n, width, num_regions, 384 * frames_per_tile, costs, num_clusters, norm)


@pytest.mark.parametrize("n", [8, 32, 96, 160, 192, 256, 320, 384, 512, 640, 1024])
@pytest.mark.parametrize("costs", [*winograd.COSTS.values(), upsample_conv.COSTS])
def test_blocks_hold_all_channels(n: int, costs: dict[int, float]) -> None:
    for num_regions in (None, 1, 30, 105, 3600):
        width = rounds.choose_width(n, costs, num_regions)
        assert width % 32 == 0 and width <= 96 and n <= width * -(-n // width) < n + 96


def test_few_tiles_are_shared_evenly() -> None:
    """105 regions of 384 channels on 66 clusters: four blocks take four rounds, six narrower ones five shorter ones."""
    costs = winograd.COSTS[2]
    assert rounds.choose_width(384, costs) == rounds.choose_width(384, costs, 3600) == 96
    assert rounds.choose_width(384, costs, 105) == 64


@pytest.mark.parametrize("num_clusters", [4, 66])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("n", "frames_per_tile"), [(8, 2), (96, 2), (96, 4), (192, 2), (256, 4), (384, 2), (384, 4)]
)
def test_launches_take_every_tile_once(n: int, frames_per_tile: int, norm: bool, num_clusters: int) -> None:
    if norm and (frames_per_tile == 4 or not winograd.norms_in_place(n)):
        pytest.skip("no norm takes so many channels in place")
    for num_regions in (1, 7, 30, 66, 69, 151, 230, 460, 901, 1800):
        taken = torch.zeros(num_regions + 1, n)
        for launch in launches_of(n, frames_per_tile, num_regions, norm, num_clusters):
            for tile in range(launch.begin, launch.end):
                for rank in (0, 1):  # as `winograd.cu` counts
                    region = tile if launch.joined else tile // launch.num_blocks * 2 + rank
                    first = (rank if launch.joined else tile % launch.num_blocks) * launch.width
                    taken[region, first : first + launch.width] += 1
        assert (taken[:num_regions] == 1).all()


def test_what_is_left_for_few_clusters_goes_to_more() -> None:
    """690 tiles of 64 channels on 66 clusters: ten rounds, and 30 tiles that become 60 of 32 channels."""
    wide, narrow = launches_of(384, 4, 230, False)
    assert (wide.width, wide.end, narrow.width, narrow.end - narrow.begin) == (64, 660, 32, 60)
    assert len(launches_of(384, 4, 330, False)) == 1  # 990 are fifteen rounds
    wide, narrow = launches_of(96, 2, 3600, True)  # a norm's channels stay together
    assert (wide.end, narrow.width, narrow.joined, narrow.end - narrow.begin) == (1782, 64, True, 36)
