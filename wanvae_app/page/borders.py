"""Borders: where the slabs of the ranks meet in a decoded picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from wanvae_app.jobs.job_state import JobState
from wanvae_app.parallel.partition import COLUMNS, plan_cut


class Borders(NamedTuple):
    """The borders of a run's slabs, in pixels of its frames."""

    columns: bool  # whether the picture was cut along its columns, not its rows
    positions: tuple[int, ...]  # first row or column of each slab but the first
    reach: int  # rows or columns on either side that count as the border: one latent row

    def to_json(self) -> dict[str, object]:
        """Return them as the page reads them."""
        return {"columns": self.columns, "positions": list(self.positions), "reach": self.reach}


def borders_of(run: JobState) -> Borders:
    """Return the borders of a run's slabs; there are none if one rank decoded it, or its input is not read yet."""
    shape = run.job.shape
    if run.num_ranks < 2 or not shape.height:
        return Borders(False, (), 0)
    dim, bounds = plan_cut(shape.height, shape.width, run.num_ranks)
    scale = run.size[0] // shape.height
    return Borders(dim == COLUMNS, tuple(scale * bound for bound in bounds[1:-1]), scale)


def border_mask(height: int, width: int, borders: Iterable[Borders]) -> np.ndarray | None:
    """Return which pixels [height, width] lie on any of these borders; None if there is no border."""
    mask = np.zeros((height, width), bool)
    for columns, positions, reach in borders:
        lines = mask.T if columns else mask  # views: writing to them writes to `mask`
        for position in positions:
            lines[max(0, position - reach) : position + reach] = True
    return mask if mask.any() else None
