"""Moving shapes for generated clips: outlines, surfaces, paths, and how they are painted into frames.

Scenes follow the "dead leaves" model of natural images: shapes of all sizes in front of one another. Here they also
move. A leaf is one such shape. Frames are [3, T, H, W] in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# An outline: the signed distance from points (u, v), negative inside. Its radius is about 1.
Profile = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Motion:
    """A path: position in pixels, angle in radians and radius in pixels at each frame, [T] each."""

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    size: np.ndarray


@dataclass
class Leaf:
    """A moving shape with a surface. Its outline is `profile`, or `mask` if there is one."""

    motion: Motion
    profile: Profile | None
    colour: np.ndarray
    texture: Tensor | None = None
    contrast: float = 0.0  # of the texture
    grain: float = 1.0  # texture pixels per screen pixel
    shading: np.ndarray = field(default_factory=lambda: np.zeros(2))  # slope of the light along u and v
    dome: float = 0.0  # strength of shading like a ball's
    mask: Tensor | None = None  # [1, h, w] in [0, 1]; the motion's size is half its height
    soft: float = 1.0  # width of the edge in pixels
    opacity: float = 1.0


def ellipse(aspect: float) -> Profile:
    """An ellipse, `aspect` times as high as wide."""
    return lambda u, v: torch.hypot(u, v / aspect) - 1


def box(aspect: float, corner: float) -> Profile:
    """A rectangle, `aspect` times as high as wide, with corners of radius `corner`."""

    def distance(u: Tensor, v: Tensor) -> Tensor:
        a, b = u.abs() - 1 + corner, v.abs() - aspect + corner
        return torch.hypot(a.clamp_min(0), b.clamp_min(0)) + torch.maximum(a, b).clamp_max(0) - corner

    return distance


def polygon(num: int) -> Profile:
    """A regular polygon of `num` sides."""

    def distance(u: Tensor, v: Tensor) -> Tensor:
        sector = torch.remainder(torch.atan2(v, u), 2 * math.pi / num) - math.pi / num
        return torch.hypot(u, v) * torch.cos(sector) - math.cos(math.pi / num)

    return distance


def blob(waves: np.ndarray, phases: np.ndarray) -> Profile:
    """A disc with a wavy rim: `waves` and `phases` [k] are those of 2, 3, ... k + 1 periods around it."""

    def distance(u: Tensor, v: Tensor) -> Tensor:
        angle = torch.atan2(v, u)
        radius = 0.8 + sum(
            float(a) * torch.cos((k + 2) * angle + p)
            for k, (a, p) in enumerate(zip(waves, phases, strict=True))
        )
        return (torch.hypot(u, v) - radius) * 0.7

    return distance


def wheel(spokes: int) -> Profile:
    """A wheel with a rim, a hub and spokes."""

    def distance(u: Tensor, v: Tensor) -> Tensor:
        r, angle = torch.hypot(u, v), torch.atan2(v, u)
        rim = (r - 0.88).abs() - 0.12
        spoke = (r * torch.sin(torch.remainder(angle, 2 * math.pi / spokes) - math.pi / spokes)).abs() - 0.06
        return torch.minimum(torch.minimum(rim, torch.maximum(spoke, r - 0.9)), r - 0.2)

    return distance


def sample(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Sample a periodic texture [C, n, n] at pixel coordinates u and v [T, H, W], to [C, T, H, W]."""
    n = texture.shape[-1]
    u, v = u.remainder(n), v.remainder(n)
    tiled = F.pad(texture[None], (0, 1, 0, 1), mode="circular")
    grid = torch.stack([u * (2 / n) - 1, v * (2 / n) - 1], -1).flatten(0, 1)[None]
    out = F.grid_sample(tiled, grid, align_corners=True)[0]
    return out.unflatten(1, u.shape[:2])


def draw(frames: Tensor, leaf: Leaf) -> None:
    """Paint the leaf into frames [3, T, H, W], in place."""
    _, num, height, width = frames.shape
    m = leaf.motion
    stretch = 1.0 if leaf.mask is None else math.hypot(1, leaf.mask.shape[2] / leaf.mask.shape[1])
    reach = m.size * 1.5 * stretch + 2
    top, bottom = max(0, int((m.y - reach).min())), min(height, int((m.y + reach).max()) + 1)
    left, right = max(0, int((m.x - reach).min())), min(width, int((m.x + reach).max()) + 1)
    if top >= bottom or left >= right:
        return
    x, y, angle, size = (
        torch.from_numpy(np.asarray(a, np.float32)).view(num, 1, 1) for a in (m.x, m.y, m.angle, m.size)
    )
    dy = torch.arange(top, bottom).view(1, -1, 1) - y
    dx = torch.arange(left, right).view(1, 1, -1) - x
    cos, sin = torch.cos(angle), torch.sin(angle)
    u, v = (cos * dx + sin * dy) / size, (cos * dy - sin * dx) / size
    if leaf.mask is not None:
        ratio = leaf.mask.shape[2] / leaf.mask.shape[1]
        grid = torch.stack([u / ratio, v], -1).flatten(0, 1)[None]
        alpha = F.grid_sample(leaf.mask[None], grid, align_corners=False)[0].unflatten(1, u.shape[:2])
    else:
        assert leaf.profile is not None
        alpha = (0.5 - leaf.profile(u, v) * size / leaf.soft).clamp(0, 1)[None]
    surface = torch.from_numpy(np.asarray(leaf.colour, np.float32)).view(3, 1, 1, 1).expand(3, *u.shape)
    if leaf.texture is not None and leaf.contrast:
        scale = float(np.mean(m.size)) * leaf.grain
        surface = surface + leaf.contrast * sample(leaf.texture, u * scale, v * scale)
    light = 1 + float(leaf.shading[0]) * u + float(leaf.shading[1]) * v
    if leaf.dome:
        light = light * (
            1
            - leaf.dome
            + leaf.dome * 1.3 * (1.02 - ((u + 0.3) ** 2 + (v + 0.4) ** 2) / 2.4).clamp(0.05, 1).sqrt()
        )
    surface = (surface * light).clamp(0, 1)
    region = frames[:, :, top:bottom, left:right]
    region.lerp_(surface, (alpha * leaf.opacity).expand_as(region))


def moving(
    rng: np.random.Generator, num: int, height: int, width: int, size: float, liveliness: float
) -> Motion:
    """A random path of `num` frames for a leaf of this size; `liveliness` scales all speeds.

    Most paths are straight. Some stand still, and some swing.
    """
    t = np.arange(num) - num / 2
    speed = 0.0 if rng.random() < 0.35 else rng.exponential(1.6) * liveliness
    heading = rng.uniform(0, 2 * math.pi)
    x, y = (
        rng.uniform(0, width) + t * speed * math.cos(heading),
        rng.uniform(0, height) + t * speed * math.sin(heading),
    )
    if rng.random() < 0.2:
        y = y + rng.uniform(0, 6) * liveliness * np.sin(t * rng.uniform(0.1, 0.8))
    turn = 0.0 if rng.random() < 0.6 else rng.normal(0, 0.05) * liveliness
    growth = 0.0 if rng.random() < 0.7 else rng.normal(0, 0.008) * liveliness
    return Motion(x, y, rng.uniform(0, 2 * math.pi) + turn * t, size * np.exp(growth * t))


def random_profile(rng: np.random.Generator) -> Profile:
    """An outline of a random kind."""
    kind = rng.integers(5)
    if kind == 0:
        return ellipse(rng.uniform(0.3, 1))
    if kind == 1:
        return box(rng.uniform(0.08, 1), rng.choice([0.0, 0.05]))
    if kind == 2:
        return polygon(int(rng.integers(3, 8)))
    if kind == 3:
        num = int(rng.integers(2, 8))
        return blob(rng.normal(0, 0.25, num) / np.arange(1, num + 1) ** 0.5, rng.uniform(0, 6.3, num))
    return wheel(int(rng.integers(4, 11))) if rng.random() < 0.2 else ellipse(rng.uniform(0.8, 1))
