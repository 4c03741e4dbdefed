"""The memory layout of all pictures: channels last.

A tensor of shape B C T H W lies in memory as [B T H W C], because convolutions are faster on it. Only the strides tell
that, so operations that make a new tensor must keep it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cat_channels_last(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenate tensors B C T H W that lie channels last along T, H or W; the result lies channels last, too.

    Parts without elements along `dim` are skipped. A single part is returned as it is.
    """
    parts = [part for part in parts if part.shape[dim]]
    if len(parts) == 1:
        return parts[0]
    # `torch.cat` guesses the layout from strides, which are ambiguous where T, H or W is 1.
    return torch.cat([part.movedim(1, -1) for part in parts], dim - 1).movedim(-1, 1)
