"""Packed weights: the layouts of a convolution's weights that kernels read, each made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class PackedWeights:
    """Keeps packed weights for as long as it lives, which is as long as the model of these layers.

    If a layer's weights have been replaced, changed or moved since they were packed, they are packed again.
    """

    def __init__(self) -> None:
        self._packed: dict[tuple[nn.Module, str], tuple[tuple[Any, ...], Any]] = {}

    def get(self, conv: nn.Module, pack: Callable[[Tensor], Any], name: str = "") -> Any:
        """Return pack(conv.weight), made at the first call with this layer and `name`."""
        weight = conv.weight
        assert isinstance(weight, Tensor)
        stamp = (weight.data_ptr(), weight._version, weight.dtype)
        found = self._packed.get((conv, name))
        if found is None or found[0] != stamp:
            with torch.inference_mode(False), torch.no_grad():
                found = self._packed[conv, name] = (stamp, pack(weight))
        return found[1]


def matrix_of(weight: Tensor) -> Tensor:
    """Return weights [N, C, kt, kh, kw] as the matrix [N, kt kh kw C]: a view if they lie channels last."""
    return weight.permute(0, 2, 3, 4, 1).flatten(1).contiguous()


def fold_upsampling(weight: Tensor) -> Tensor:
    """Fold 3x3 weights [N, C, 3, 3] for an enlarged picture to 2x2 weights for the small one: [4 phases N, 4 taps C].

    The picture is enlarged twice by repetition. A phase is the pixels (2 y + dy, 2 x + dx) for one dy and dx. Of three
    neighbours in the large picture two are the same pixel of the small one, so their taps add up.
    """

    def phases(w: Tensor, dim: int) -> list[Tensor]:
        a, b, c = w.unbind(dim)
        return [torch.stack([a, b + c], dim), torch.stack([a + b, c], dim)]

    four = [columns for rows in phases(weight.float(), 2) for columns in phases(rows, 3)]
    return torch.stack(four).permute(0, 1, 3, 4, 2).flatten(0, 1).flatten(1).to(weight.dtype).contiguous()


def bias_of(conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Return the bias [N] of a layer that has one, as all convolutions of the VAE have."""
    assert conv.bias is not None
    return conv.bias
