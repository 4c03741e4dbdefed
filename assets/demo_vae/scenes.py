"""Random clips for training the demo VAE: a camera moves over a textured ground, with moving shapes on it.

frames = random_clip(Textures(64, rng), rng, 17, 160, 160)  # [3, T, H, W] in [0, 1]
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from clips import Leaf, Motion, draw, moving, random_profile, sample
from textures import Textures, natural_colour, random_text
from torch import Tensor


def random_leaf(
    bank: Textures, rng: np.random.Generator, num: int, height: int, width: int, live: float
) -> Leaf:
    """A leaf of random shape, surface and path; `live` scales its speed."""
    # Sizes have a density proportional to size^-3, which makes the statistics the same at every scale.
    low, high = 2.5, 0.6 * max(height, width)
    size = (low**-2 - rng.random() * (low**-2 - high**-2)) ** -0.5
    if rng.random() < 0.65:  # mostly log-uniform: large leaves make up the picture
        size = math.exp(rng.uniform(math.log(4), math.log(high)))
    leaf = Leaf(moving(rng, num, height, width, size, live), random_profile(rng), natural_colour(rng))
    leaf.texture = bank.pick(rng)
    leaf.contrast = rng.exponential(0.05) if rng.random() < 0.8 else 0.0
    leaf.grain = math.exp(rng.uniform(math.log(0.25), math.log(1.8)))
    leaf.shading = rng.normal(0, 0.2, 2)
    leaf.dome = rng.choice([0.0, rng.uniform(0.3, 1)], p=[0.7, 0.3])
    leaf.soft = 1.0 if rng.random() < 0.6 else rng.exponential(4.0) + 1
    leaf.opacity = 1.0 if rng.random() < 0.9 else rng.uniform(0.3, 1)
    return leaf


def ground(
    bank: Textures, rng: np.random.Generator, num: int, height: int, width: int, live: float
) -> Tensor:
    """A textured plane, lit unevenly, under a moving camera: [3, T, H, W]."""
    path = moving(rng, num, height, width, 1.0, live)
    angle = torch.from_numpy(path.angle).float().view(-1, 1, 1)
    zoom = torch.from_numpy(path.size).float().view(-1, 1, 1) * math.exp(
        rng.uniform(math.log(0.2), math.log(1.6))
    )
    y = torch.arange(height).view(1, -1, 1) - height / 2
    x = torch.arange(width).view(1, 1, -1) - width / 2
    u = (torch.cos(angle) * x + torch.sin(angle) * y) * zoom + torch.from_numpy(path.x).float().view(-1, 1, 1)
    v = (torch.cos(angle) * y - torch.sin(angle) * x) * zoom + torch.from_numpy(path.y).float().view(-1, 1, 1)
    out = sample(bank.pick(rng), u, v) * rng.exponential(0.09)
    colours = [torch.from_numpy(natural_colour(rng)).float().view(3, 1, 1, 1) for _ in range(2)]
    slant = (math.cos(path.angle[0]) * x / width + math.sin(path.angle[0]) * y / height + 0.5).clamp(0, 1)
    mix = slant.expand(num, height, width)[None] * rng.random()
    return out + colours[0] * (1 - mix) + colours[1] * mix


def add_text(frames: Tensor, rng: np.random.Generator, live: float) -> None:
    """Paint one to three moving texts into frames [3, T, H, W], in place."""
    _, num, height, width = frames.shape
    for _ in range(int(rng.integers(1, 4))):
        size = int(rng.integers(12, 61))
        mask = random_text(rng, size)
        colour = natural_colour(rng) if rng.random() < 0.4 else np.full(3, rng.choice([0.03, 0.97]))
        path = moving(rng, num, height, width, mask.shape[1] / 2, live)
        path.angle *= 0 if rng.random() < 0.7 else 0.05
        path.size[:] = mask.shape[1] / 2 * (1 if rng.random() < 0.7 else rng.uniform(0.6, 1.2))
        draw(frames, Leaf(path, None, colour, mask=mask))


def blur(frames: Tensor, sigma: float) -> Tensor:
    """Blur each of the frames [3, T, H, W] with a Gaussian of standard deviation `sigma` pixels."""
    radius = max(1, math.ceil(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    x = frames.transpose(0, 1)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), taps, groups=3)
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), taps.transpose(2, 3), groups=3)
    return x.transpose(0, 1)


def random_scene(
    bank: Textures, rng: np.random.Generator, num: int, height: int, width: int, live: float | None
) -> Tensor:
    """A scene, [3, T, H, W].

    `live` scales all speeds: at 1, leaves move by about 1.6 pixels a frame. None chooses it at random.
    """
    if live is None:
        live = rng.choice([0.0, 0.5, 1.0, 2.0, 5.0], p=[0.1, 0.3, 0.35, 0.15, 0.1])
    frames = ground(bank, rng, num, height, width, live).contiguous()
    drift_x, drift_y = rng.normal(0, 1.2, 2) * live * (rng.random() < 0.6)  # all leaves drift together
    zoom = rng.normal(0, 0.006) * live * (rng.random() < 0.4)
    t = np.arange(num) - num / 2
    for _ in range(int(math.exp(rng.uniform(math.log(3), math.log(50))))):
        leaf = random_leaf(bank, rng, num, height, width, live)
        m, scale = leaf.motion, np.exp(zoom * t)
        leaf.motion = Motion(
            (m.x - width / 2) * scale + width / 2 + drift_x * t,
            (m.y - height / 2) * scale + height / 2 + drift_y * t,
            m.angle,
            m.size * scale,
        )
        draw(frames, leaf)
    if rng.random() < 0.3:
        add_text(frames, rng, live)
    return frames


def random_clip(
    bank: Textures, rng: np.random.Generator, num: int, height: int, width: int, live: float | None = None
) -> Tensor:
    """A clip, [3, T, H, W] in [0, 1]: a scene that may be faded, cut, flickering, grainy or blurred."""
    frames = random_scene(bank, rng, num, height, width, live)
    if rng.random() < 0.04:  # a cut
        at = int(rng.integers(1, num))
        frames[:, at:] = random_scene(bank, rng, num, height, width, live)[:, at:]
    t = torch.linspace(0, 1, num).view(1, -1, 1, 1)
    if rng.random() < 0.06:  # a fade
        frames = frames * (t if rng.random() < 0.5 else 1 - t)
    if rng.random() < 0.05:  # flicker
        frames = frames * (1 + 0.08 * torch.from_numpy(rng.standard_normal(num)).float().view(1, -1, 1, 1))
    frames = (frames - 0.5) * rng.uniform(0.6, 1.15) + 0.5 + rng.normal(0, 0.06)
    if rng.random() < 0.6:
        frames = blur(frames, rng.uniform(0.3, 1.2))
    if rng.random() < 0.25:
        frames = frames + torch.from_numpy(rng.standard_normal(frames.shape, np.float32)) * rng.uniform(
            0, 0.03
        )
    return frames.clamp(0, 1)
