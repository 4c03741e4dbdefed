"""What kernels read in place of a convolution's weights, made once and kept as long as the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_prepared: WeakKeyDictionary[nn.Module, dict[str, tuple[Any, Any]]] = WeakKeyDictionary()


def prepare(conv: nn.Module, make: Callable[[Tensor], Any], name: str = "") -> Any:
    """make(conv's weight), made once; by name where there is more than one such thing."""
    weight = conv.weight
    assert isinstance(weight, Tensor)
    stamp = (weight.data_ptr(), weight._version, weight.dtype)
    all_of_it = _prepared.setdefault(conv, {})
    found = all_of_it.get(name)
    if found is None or found[0] != stamp:
        with torch.inference_mode(False), torch.no_grad():
            found = all_of_it[name] = (stamp, make(weight))
    return found[1]


def matrix_of(weight: Tensor) -> Tensor:
    """Weights [N, C, kt, kh, kw] as [N, kt kh kw C]: a view where they lie channels last."""
    return weight.permute(0, 2, 3, 4, 1).flatten(1).contiguous()


def folded(weight: Tensor) -> Tensor:
    """3x3 weights for a picture enlarged by repetition, as 2x2 ones for each of four phases: [4 N, 4 C].

    Of three neighbours in the enlarged picture two are the same pixel of the small one, so their taps add up.
    """

    def phases(w: Tensor, dim: int) -> list[Tensor]:
        a, b, c = w.unbind(dim)
        return [torch.stack([a, b + c], dim), torch.stack([a + b, c], dim)]

    four = [columns for rows in phases(weight.float(), 2) for columns in phases(rows, 3)]
    return torch.stack(four).permute(0, 1, 3, 4, 2).flatten(0, 1).flatten(1).to(weight.dtype).contiguous()


def bias_of(conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """The bias, which every one of these layers has."""
    assert conv.bias is not None
    return conv.bias
