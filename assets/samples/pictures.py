"""The five sample scenes: balloons, marbles, bicycle, credits, pond. Their shapes are those of ../demo_vae/clips.py.

A scene takes the number of frames, height, width and a bank of textures. It returns [3, T, H, W] in about [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
import torch
from canvas import Canvas, Colour
from clips import blob, box, ellipse, wheel
from textures import SIZE, Textures, noise, text_mask
from torch import Tensor

RED, CREAM, GOLD = (0.85, 0.16, 0.14), (0.97, 0.92, 0.80), (0.98, 0.74, 0.16)
BLUE, TEAL, DARK = (0.15, 0.28, 0.68), (0.10, 0.60, 0.58), (0.13, 0.13, 0.17)
SHADE = (0.06, 0.08, 0.10)


def rope(u: Tensor, v: Tensor) -> Tensor:
    """The outline of a thin upright rope."""
    return torch.maximum(u.abs() - 0.03, v.abs() - 0.9)


def stripes(colours: list[Colour], count: int) -> Tensor:
    """A texture of `count` upright stripes, [3, SIZE, SIZE], as differences from grey."""
    index = (torch.arange(SIZE) * count // SIZE) % len(colours)
    return torch.tensor(colours)[index].T[:, None].expand(3, SIZE, SIZE) - 0.5


def balloon(c: Canvas, x: float, y: float, r: float, rise: float, sway: float, colours: list[Colour]) -> None:
    """Paint a balloon of radius `r` that begins at x, y, rises by `rise` pixels a frame and sways by `sway` pixels."""
    px, py = x + sway * np.sin(c.t * 0.16 + x), y - rise * c.t
    tilt = 0.06 * np.cos(c.t * 0.16 + x)
    for side in (-0.28, 0.28):
        c.put(rope, px + side * r, py + 1.3 * r, r * 0.42, (0.25, 0.18, 0.12), side)
    c.put(box(0.75, 0.1), px, py + 1.62 * r, r * 0.2, (0.45, 0.28, 0.14))
    c.put(ellipse(0.9), px, py + 0.82 * r, r * 0.5, colours[0], tilt, dome=0.5)
    grain = SIZE / r / 2
    c.put(ellipse(1.0), px, py, r, (0.5, 0.5, 0.5), tilt, stripes(colours, 12), 1.0, grain=grain, dome=0.65)


def balloons(num: int, height: int, width: int, bank: Textures) -> Tensor:
    """Hot-air balloons rise over hills."""
    c = Canvas(num, height, width, (0.28, 0.55, 0.86), (0.98, 0.83, 0.66), bank)
    rng = np.random.default_rng(3)
    for _ in range(5):  # clouds of soft discs
        x, y, size = rng.uniform(0, width), rng.uniform(0.05, 0.45) * height, rng.uniform(0.05, 0.1) * width
        for _ in range(6):
            dx, dy, r = rng.normal(0, 1.1) * size, rng.normal(0, 0.25) * size, size * rng.uniform(0.4, 0.9)
            c.put(
                ellipse(0.65), x + dx + 0.5 * c.t, y + dy, r, (0.99, 0.98, 0.96), soft=r * 0.9, opacity=0.55
            )
    c.hills(
        [(0.70, (0.50, 0.58, 0.72), 0.030, 0.02, 0, 1), (0.77, (0.33, 0.48, 0.52), 0.028, 0.04, 3, 2)], 0.25
    )
    balloon(c, 0.80 * width, 0.42 * height, 0.07 * height, 0.3, 2, [TEAL, CREAM])
    balloon(c, 0.52 * width, 0.55 * height, 0.10 * height, 0.6, 3, [BLUE, GOLD])
    c.hills(
        [(0.85, (0.28, 0.46, 0.28), 0.024, 0.07, 5, 3), (0.95, (0.36, 0.50, 0.16), 0.018, 0.10, 7, 4)], 0.5
    )
    balloon(c, 0.25 * width, 0.52 * height, 0.20 * height, 0.9, 5, [RED, CREAM, GOLD])
    return c.frames


def marbles(num: int, height: int, width: int, bank: Textures) -> Tensor:
    """Marbles roll in circles on a table."""
    c = Canvas(num, height, width, CREAM, CREAM, bank)
    c.put(box(1.0, 0.0), width / 2, height / 2, width, (0.86, 0.76, 0.60), 0.0, 1, 0.05)
    s = min(height, width)
    palette = [(0.86, 0.15, 0.20), (0.12, 0.38, 0.80), (0.10, 0.62, 0.36)]
    palette += [(0.97, 0.66, 0.10), (0.55, 0.22, 0.70), (0.06, 0.66, 0.74)]
    for i, colour in enumerate(palette):
        r = s * (0.10 + 0.035 * (i * 7 % 4))
        away, speed = s * (0.20 + 0.055 * (i % 3)), 0.055 * (1 if i % 2 else -0.8)
        turn = i * math.pi / 3 + speed * c.t
        x = width / 2 + away * 1.35 * np.cos(turn) * width / s
        y = height / 2 + away * 1.25 * np.sin(turn)
        c.put(
            ellipse(0.9), x + 0.35 * r, y + 0.45 * r, 1.02 * r, (0.18, 0.11, 0.07), soft=r * 0.5, opacity=0.5
        )
        c.put(ellipse(1.0), x, y, r, colour, 2.5 * speed * c.t, 9 + i, 0.16, grain=60 / r)
        c.put(ellipse(1.0), x, y, r, colour, dome=1.0, opacity=0.55)
        c.put(ellipse(0.7), x - 0.33 * r, y - 0.40 * r, 0.2 * r, (1, 1, 1), soft=r * 0.22, opacity=0.9)
    return c.frames


def bicycle(num: int, height: int, width: int, bank: Textures) -> Tensor:
    """A bicycle rolls along a road in front of hills."""
    c = Canvas(num, height, width, (0.98, 0.62, 0.38), (0.99, 0.88, 0.62), bank)
    c.put(ellipse(1.0), 0.72 * width, 0.42 * height, 0.13 * height, (1.0, 0.95, 0.75), soft=6)
    layers = [
        (0.56, (0.62, 0.42, 0.52), 0.035, 0.02, 0, 11),
        (0.66, (0.42, 0.34, 0.46), 0.030, 0.04, 4, 12),
        (0.78, (0.24, 0.34, 0.28), 0.012, 0.07, 6, 13),
    ]
    c.hills(layers, 0.7)
    speed = 0.009 * width
    road = box(0.11 * height / width / 4, 0.0)
    c.put(road, width / 2 - speed * c.t, 0.93 * height, 4 * width, (0.34, 0.33, 0.36), 0.0, 2, 0.05)
    for i in range(14):
        c.put(box(0.10, 0.0), (i - 1) * 0.28 * width - speed * c.t, 0.965 * height, 0.06 * width, CREAM)
    r, ground = 0.19 * height, 0.89 * height
    for x in (0.30, 0.62):
        c.put(ellipse(0.14), x * width, ground + 2, r * 0.9, SHADE, soft=8, opacity=0.5)
        c.put(wheel(9), x * width, ground - r, r, DARK, speed * c.t / r + x)
    # Hubs, crank, saddle and handlebar: x in widths, height above the ground in wheel radii.
    places = [(0.30, 1.0), (0.62, 1.0), (0.44, 1.0), (0.39, 2.1), (0.57, 2.2)]
    points = [(x * width, ground - y * r) for x, y in places]
    for a, b in ((0, 2), (0, 3), (2, 3), (2, 4), (3, 4), (4, 1)):
        (xa, ya), (xb, yb) = points[a], points[b]
        length = math.hypot(xb - xa, yb - ya) / 2
        tube = box(0.025 * height / length, 0.0)
        c.put(tube, (xa + xb) / 2, (ya + yb) / 2, length, RED, math.atan2(yb - ya, xb - xa))
    x, y = points[3]
    c.put(box(0.22, 0.15), x, y - 0.02 * height, 0.06 * height, DARK)
    x, y = points[4]
    c.put(box(0.16, 0.1), x + 0.02 * height, y - 0.02 * height, 0.06 * height, DARK, -0.3)
    return c.frames


def credits(num: int, height: int, width: int, bank: Textures) -> Tensor:
    """Lines of text rise in front of a night sky."""
    c = Canvas(num, height, width, (0.03, 0.04, 0.14), (0.20, 0.14, 0.34), bank)
    rng = np.random.default_rng(5)
    for _ in range(70):
        x, y, size = rng.uniform(0, width), rng.uniform(0, 0.75) * height, rng.uniform(0.6, 1.6)
        c.put(ellipse(1.0), x, y, size, (1.0, 0.96, 0.86), opacity=rng.uniform(0.3, 1))
    moon = (0.82 * width, 0.20 * height, 0.11 * height)
    c.put(ellipse(1.0), *moon, (0.96, 0.93, 0.84), 0.0, 8, 0.06, grain=2.0, dome=0.5)
    c.hills(
        [(0.74, (0.14, 0.13, 0.30), 0.06, 0.02, 0, 21), (0.86, (0.07, 0.08, 0.18), 0.05, 0.03, 3, 22)], 0.3
    )
    white = (0.97, 0.97, 1.0)
    lines = [("FRAME BY FRAME", 36, (1.0, 0.82, 0.35)), ("a latent becomes a picture", 24, white),
             ("sixteen numbers at a time", 24, white), ("on every device you have", 24, (0.75, 0.90, 1.0)),
             ("1 2 3 4 5 6 7 8", 30, (1.0, 0.55, 0.45))]  # fmt: skip
    y = 0.22 * height
    for line, size, colour in lines:
        mask = text_mask([line], size)
        y += size * 1.5
        c.put(mask, width * 0.47, y - 1.5 * c.t, mask.shape[1] / 2, colour)
    return c.frames


def pond(num: int, height: int, width: int, bank: Textures) -> Tensor:
    """Fish swim under lily pads and moving ripples."""
    c = Canvas(num, height, width, TEAL, TEAL, bank)
    c.put(
        box(1.0, 0.0), width / 2 + 0.6 * c.t, height / 2, width, (0.10, 0.34, 0.40), 0.0, 0, 0.03, grain=0.5
    )
    rng = np.random.default_rng(9)
    tail = blob(np.array([0.0, 0.35]), np.array([0.0, math.pi]))
    colours = [(0.95, 0.42, 0.10), (0.97, 0.93, 0.86), (0.92, 0.24, 0.12), GOLD]
    for i in range(8):
        size, x, y = (
            rng.uniform(0.06, 0.11) * height,
            rng.uniform(0.1, 0.9) * width,
            rng.uniform(0.12, 0.88) * height,
        )
        speed, heading = rng.uniform(1.0, 2.6), rng.uniform(0, 2 * math.pi)
        cos, sin = math.cos(heading), math.sin(heading)
        x, y = x + speed * (c.t - num / 2) * cos, y + speed * (c.t - num / 2) * sin
        wag = heading + 0.25 * np.sin(0.7 * c.t + i)
        c.put(ellipse(0.4), x + 5, y + 8, size, SHADE, wag, soft=8, opacity=0.45)
        c.put(
            tail,
            x - 1.05 * size * cos,
            y - 1.05 * size * sin,
            0.42 * size,
            colours[i % 4],
            wag,
            soft=2,
            opacity=0.85,
        )
        c.put(ellipse(0.36), x, y, size, colours[i % 4], wag, 12 + i % 3, 0.18, grain=0.8, dome=0.4)
    pad = blob(np.array([0.05, 0.03, 0.02]), np.array([0.0, 1.0, 2.0]))
    for i in range(5):
        r, x, y = rng.uniform(0.08, 0.15) * height, rng.uniform(0, 1) * width, rng.uniform(0, 1) * height
        x = x + 2 * np.sin(0.1 * c.t + i)
        c.put(ellipse(0.95), x + 6, y + 8, r, SHADE, soft=10, opacity=0.5)
        light = np.array([0.2, 0.1])
        c.put(pad, x, y, r, (0.24, 0.50, 0.20), i + 0.02 * c.t, 6, 0.07, grain=0.8, shading=light)
        if i % 2:
            for k in range(6):
                turn, pink = k * 1.05, (0.98, 0.78, 0.86)
                petal = (x + 0.22 * r * math.cos(turn), y + 0.22 * r * math.sin(turn), 0.24 * r)
                c.put(ellipse(0.5), *petal, pink, turn, dome=0.3)
            c.put(ellipse(1.0), x, y, 0.1 * r, GOLD)
    t, v, u = torch.meshgrid(torch.arange(num), torch.arange(height), torch.arange(width), indexing="ij")
    bend = torch.from_numpy(noise(1, 1.4, rng)[0]).float()[v % SIZE, u % SIZE]
    ripple = torch.sin(0.09 * u + 0.05 * v + 1.3 * bend - 0.25 * t) * torch.sin(0.03 * u - 0.08 * v + 0.2 * t)
    return c.frames + 0.05 * ripple.clamp_min(0).square()
