"""How far a result is from what was expected."""

from __future__ import annotations

from torch import Tensor


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Frobenius norm, in float64. The shapes must agree."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()
