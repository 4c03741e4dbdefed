"""EdgeLayout: where the rows that an exchange sends and fills lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wanvae_app.kernels.mailbox import UNIT


@dataclass(frozen=True)
class EdgeLayout:
    """Where rows lie in the frames that `halo_kernel` exchanges; its arguments, by name. All but `count` are in units.

    A row of a picture is one piece. A column of a picture is many pieces: one pixel in each row.
    """

    first: int  # from a frame's start to the row that the rank before gets
    final: int  # to the row that the rank after gets
    above: int  # to where the row of the rank before goes
    below: int  # to where the row of the rank after goes
    frame: int  # from one frame to the next
    step: int  # from one piece of a row to the next
    run: int  # units of a piece
    count: int  # pieces of a row

    @property
    def row_units(self) -> int:
        """Units of one row of one frame."""
        return self.run * self.count


# One unit of an exchange that carries nothing: it is sent from the first unit, and received into the second.
NOTHING = EdgeLayout(first=0, final=0, above=1, below=1, frame=0, step=1, run=1, count=1)


def padded_frames_layout(frames: Tensor, columns: bool) -> EdgeLayout:
    """Return where edge rows, or columns, and the border beside them lie in padded frames [slots, H + 2, W + 2, C]."""
    _, height, width, channels = frames.shape
    pixel = channels * frames.element_size() // UNIT
    line, length = (pixel, width) if columns else (width * pixel, height)
    return EdgeLayout(
        first=line,
        final=(length - 2) * line,
        above=0,
        below=(length - 1) * line,
        frame=height * width * pixel,
        step=width * pixel,
        run=pixel if columns else width * pixel,
        count=height if columns else 1,
    )


def four_rows_layout(row_units: int) -> EdgeLayout:
    """Return the layout of four rows, one behind another: two that are sent, then two that are received."""
    return EdgeLayout(
        first=0,
        final=row_units,
        above=2 * row_units,
        below=3 * row_units,
        frame=0,
        step=row_units,
        run=row_units,
        count=1,
    )
