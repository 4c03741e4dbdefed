"""Packed weights: what kernels read in place of a convolution's weights, made once from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class PackedWeights:
    """Keeps what was made of layers' weights, for as long as it lives itself: as long as the model of these layers.

    What was made of weights that have been replaced, changed or moved since is made anew.
    """

    def __init__(self) -> None:
        self._packed: dict[tuple[nn.Module, str], tuple[tuple[Any, ...], Any]] = {}

    def get(self, conv: nn.Module, pack: Callable[[Tensor], Any], name: str = "") -> Any:
        """Return pack(weight of conv), made at the first call; `name` tells several things apart that are made of one
        layer."""
        weight = conv.weight
        assert isinstance(weight, Tensor)
        stamp = (weight.data_ptr(), weight._version, weight.dtype)
        found = self._packed.get((conv, name))
        if found is None or found[0] != stamp:
            with torch.inference_mode(False), torch.no_grad():
                found = self._packed[conv, name] = (stamp, pack(weight))
        return found[1]


def matrix_of(weight: Tensor) -> Tensor:
    """Weights [N, C, kt, kh, kw] as [N, kt kh kw C]: a view where they lie channels last."""
    return weight.permute(0, 2, 3, 4, 1).flatten(1).contiguous()


def fold_upsampling(weight: Tensor) -> Tensor:
    """3x3 weights [N, C, 3, 3] for a picture enlarged by repetition, as 2x2 ones for four phases: [4 N, 4 C].

    Of three neighbours in the enlarged picture two are the same pixel of the small one, so their taps add up.
    """

    def phases(w: Tensor, dim: int) -> list[Tensor]:
        a, b, c = w.unbind(dim)
        return [torch.stack([a, b + c], dim), torch.stack([a + b, c], dim)]

    four = [columns for rows in phases(weight.float(), 2) for columns in phases(rows, 3)]
    return torch.stack(four).permute(0, 1, 3, 4, 2).flatten(0, 1).flatten(1).to(weight.dtype).contiguous()


def bias_of(conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """The bias [N], which every one of these layers has."""
    assert conv.bias is not None
    return conv.bias
