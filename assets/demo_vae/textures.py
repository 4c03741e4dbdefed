"""Surfaces for generated clips: textures with the spectrum of natural images, colours, and text."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SIZE = 256  # rows and columns of a texture, which is periodic

TEXT = """the light of every window falls on water and stone while a slow train leaves town at seven under
clouds BOXES OPEN Market 1984 No. 27 café ROUTE 66 east & west 3.14 hello World stop GO 42 km/h Exit Quick
brown fox jumps over lazy dogs ABC xyz 0123456789 left right summer winter Music & Tea"""
WORDS = TEXT.split()


def noise(num: int, slope: float, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Periodic noise with amplitudes frequency^-slope: [num, size, size], of mean 0 and standard deviation 1."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = 1
    gain = f**-slope
    gain[0, 0] = 0
    spectrum = gain * np.exp(2j * math.pi * rng.random((num, *f.shape))) * rng.rayleigh(size=(num, *f.shape))
    x = np.fft.irfft2(spectrum, (size, size))
    return (x - x.mean((1, 2), keepdims=True)) / (x.std((1, 2), keepdims=True) + 1e-9)


def luma_pattern(rng: np.random.Generator) -> np.ndarray:
    """A grey texture, [SIZE, SIZE] of mean 0 and standard deviation 1, of a random kind."""
    x, warp = noise(2, rng.uniform(0.9, 1.7), rng)
    v, u = np.mgrid[:SIZE, :SIZE] / SIZE * 2 * math.pi
    kind = rng.choice(8, p=[0.36, 0.12, 0.12, 0.12, 0.08, 0.06, 0.07, 0.07])
    if kind == 1:
        x = np.abs(x)
    elif kind == 2:  # patches of two tones
        x = np.tanh(x * rng.uniform(2, 12)) + 0.2 * warp
    elif kind == 3:  # stripes, bent
        a, b = rng.integers(-14, 15, 2)
        x = np.sin(a * u + b * v + warp * rng.uniform(0, 1.5)) + 0.3 * x
        x = np.tanh(x * 4) if rng.random() < 0.4 else x
    elif kind == 4:  # tiles or bricks
        a, b = rng.integers(3, 16, 2)
        shift = (np.floor(v * b / 2 / math.pi) % 2) * 0.5
        tu, tv = (u * a / 2 / math.pi + shift) % 1, (v * b / 2 / math.pi) % 1
        x = 0.4 * x + np.where((tu < 0.08) | (tv < 0.08), -1.5, 0.3)
    elif kind == 5:
        x = noise(1, rng.uniform(0.3, 0.8), rng)[0]
    elif kind == 6:  # rings, as in wood
        x = np.sin(warp * rng.uniform(2, 8))
    elif kind == 7:  # pebbles
        x = np.sin(u * rng.integers(4, 12) + warp) * np.sin(v * rng.integers(4, 12) + x) + 0.3 * x
    x = x - x.mean()
    return x / (x.std() + 1e-6)


def colour_texture(rng: np.random.Generator) -> np.ndarray:
    """A coloured texture, [3, SIZE, SIZE]: luma of standard deviation 1, weaker and smoother chroma."""
    luma = luma_pattern(rng)
    chroma = noise(2, rng.uniform(1.1, 1.8), rng) * rng.uniform(0, 0.35)
    red = np.array([0.5, 0.0, -0.5])[:, None, None] * chroma[0]
    green = np.array([-0.25, 0.3, -0.25])[:, None, None] * chroma[1]
    tint = 1 + 0.25 * rng.standard_normal(3) * rng.random()
    return luma[None] * tint[:, None, None] + red + green


class Textures:
    """A bank of `num` random textures, [num, 3, SIZE, SIZE]."""

    def __init__(self, num: int, rng: np.random.Generator) -> None:
        self.bank = torch.from_numpy(np.stack([colour_texture(rng) for _ in range(num)])).float()

    def pick(self, rng: np.random.Generator) -> Tensor:
        """A random texture of the bank, [3, SIZE, SIZE]."""
        return self.bank[rng.integers(len(self.bank))]


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def text_mask(lines: list[str], size: int, width: int = 0) -> Tensor:
    """The lines in the default font, `size` pixels high, centred in at least `width` pixels: [1, h, w] in [0, 1]."""
    face = font(size)
    wide = max(width, int(max(face.getlength(line) for line in lines)) + 6)
    image = Image.new("L", (wide, int(len(lines) * size * 1.25) + 8))
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text(((wide - face.getlength(line)) / 2, 2 + i * size * 1.25), line, 255, font=face)
    return torch.from_numpy(np.array(image)).float()[None] / 255


def random_text(rng: np.random.Generator, size: int) -> Tensor:
    """A mask as of `text_mask`, of one to four lines of random words."""
    lines = [" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(rng.integers(1, 5))]
    return text_mask(lines, size)


def natural_colour(rng: np.random.Generator) -> np.ndarray:
    """An RGB colour in [0, 1] of any brightness, mostly pale, sometimes vivid."""
    luma = float(np.clip(rng.beta(1.3, 1.5), 0.01, 0.99))
    vivid = rng.choice([0.08, 0.22, 0.6], p=[0.5, 0.35, 0.15])
    hue = rng.standard_normal(3)
    hue -= hue @ np.array([0.3, 0.59, 0.11])
    return np.clip(luma + vivid * hue * min(luma, 1 - luma) * 2, 0, 1)
