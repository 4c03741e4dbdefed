"""A canvas for the sample scenes: a call paints a shape into all frames."""

from __future__ import annotations

import math

import numpy as np
import torch
from clips import Leaf, Motion, Profile, draw
from textures import Textures
from torch import Tensor

Colour = tuple[float, float, float]
Value = float | np.ndarray  # the same in all frames, or [T]


class Canvas:
    """Frames to paint on, [3, T, H, W] in about [0, 1], and `t` [T], the numbers of the frames, for paths.

    The frames begin as a gradient from `top` to `bottom`.
    """

    def __init__(
        self, num: int, height: int, width: int, top: Colour, bottom: Colour, bank: Textures
    ) -> None:
        mix = torch.linspace(0, 1, height).view(1, 1, -1, 1)
        a, b = (torch.tensor(c).view(3, 1, 1, 1) for c in (top, bottom))
        self.frames = (a * (1 - mix) + b * mix).expand(3, num, height, width).contiguous()
        self.t = np.arange(num, dtype=np.float64)
        self.height, self.width, self.bank = height, width, bank.bank

    def put(
        self,
        shape: Profile | Tensor,
        x: Value,
        y: Value,
        size: Value,
        colour: Colour,
        angle: Value = 0.0,
        surface: int | Tensor = 0,
        contrast: float = 0.0,
        **leaf: object,
    ) -> None:
        """Paint a shape, or a mask [1, h, w], whose centre is at x, y and whose radius is `size`, in pixels.

        `surface` is a texture or its number in the bank. Other arguments are those of Leaf.
        """
        motion = Motion(*(np.broadcast_to(v, self.t.shape).astype(np.float64) for v in (x, y, angle, size)))
        texture = surface if isinstance(surface, Tensor) else self.bank[surface]
        mask = shape if isinstance(shape, Tensor) else None
        profile = None if isinstance(shape, Tensor) else shape
        draw(self.frames, Leaf(motion, profile, np.array(colour), texture, contrast, mask=mask, **leaf))

    def hills(self, layers: list[tuple], drift: float) -> None:
        """Paint layers of hills from far to near; near ones drift faster.

        A layer is (height of the horizon, colour, roughness, contrast, surface, seed).
        """
        for i, (at, colour, rough, contrast, surface, seed) in enumerate(layers):
            x = self.width / 2 - drift * (i + 1) ** 1.5 * self.t
            light = np.array([0, -0.5])
            self.put(
                ridge(seed, rough),
                x,
                at * self.height,
                self.width,
                colour,
                0.0,
                surface,
                contrast,
                shading=light,
            )


def ridge(seed: int, roughness: float) -> Profile:
    """The outline of hills: all points below an uneven horizon at v = 0, with period 2 in u."""
    rng = np.random.default_rng(seed)
    k = np.arange(1, 25)
    waves = list(
        zip(k, roughness * rng.standard_normal(24) / k**1.2, rng.uniform(0, 2 * math.pi, 24), strict=True)
    )

    def distance(u: Tensor, v: Tensor) -> Tensor:
        return sum(float(a) * torch.sin(math.pi * float(n) * u + float(p)) for n, a, p in waves) - v

    return distance
