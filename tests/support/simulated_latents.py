"""Normalised latents of simulated clips: smooth in space, alike in time, of any contrast, with colours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wanvae_app.config import WanConfig

# How much a channel of Wan 2.1's normalised latents moves red, green and blue, as ComfyUI's previews have it (Wan21's
# latent_rgb_factors and their bias), and 48 rows in the manner of Wan 2.2's, which are smaller.
# fmt: off
TO_RGB_2_1 = np.array([
    [-.1299, -.1692, .2932], [.0671, .0406, .0442], [.3568, .2548, .1747], [.0372, .2344, .1420],
    [.0313, .0189, -.0328], [.0296, -.0956, -.0665], [-.3477, -.4059, -.2925], [.0166, .1902, .1975],
    [-.0412, .0267, -.1364], [-.1293, .0740, .1636], [.0680, .3019, .1128], [.0032, .0581, .0639],
    [-.1251, .0927, .1699], [.0060, -.0633, .0005], [.3477, .2275, .2950], [.1984, .0913, .1861],
])
# fmt: on
TO_RGB = {16: TO_RGB_2_1, 48: np.concatenate([TO_RGB_2_1, 0.2 * TO_RGB_2_1[::-1], 0.1 * TO_RGB_2_1])}
BIAS = np.array([-0.1835, -0.0868, -0.3360])

CONTRASTS = (0.05, 0.1, 0.25, 0.5, 0.7, 0.9, 1.2)
COLOURS = ("any", "rgb", "grey", "none")  # what the channels' means are
CHANNELS = ("independent", "mixed", "three colours", "uneven")  # how they vary together
SIZES = ((1, 30, 52), (1, 12, 10), (1, 3, 4), (3, 12, 10), (21, 6, 8))  # latent frames, rows, columns


class Scene(NamedTuple):
    """What a simulated clip is like. All that is left open is drawn at random."""

    contrast: float
    colours: str = "any"
    channels: str = "independent"
    size: tuple[int, int, int] = (3, 12, 10)
    likeness: float | None = None  # correlation of neighbouring frames; None: drawn


def simulate(scene: Scene, config: WanConfig, random: np.random.Generator) -> np.ndarray:
    """A normalised latent [1, C, T, H, W] of a scene, float64."""
    num_channels = config.z_dim
    from_rgb = np.linalg.pinv(TO_RGB[num_channels].T)
    likeness = random.choice([0.0, 0.7, 0.95, 0.999]) if scene.likeness is None else scene.likeness
    x = _smooth(num_channels, scene.size, int(random.choice([1, 3, 8, 20])), likeness, random)
    if scene.channels == "three colours":
        x = np.tensordot(from_rgb, 0.3 * x[:3], 1) + 0.3 * x
        x /= x.std() + 1e-9
    elif scene.channels == "mixed":
        mixture = (
            0.8 * np.eye(num_channels) + 0.6 * random.standard_normal((num_channels,) * 2) / num_channels**0.5
        )
        x = np.tensordot(mixture / np.linalg.norm(mixture, axis=1, keepdims=True), x, 1)
    spreads = (
        np.exp(random.normal(-0.15, 0.4, num_channels))
        if scene.channels == "uneven"
        else random.uniform(0.6, 1.2, num_channels)
    )
    rgb = random.uniform(-1, 1, 3) if scene.colours == "rgb" else np.full(3, random.uniform(-1, 1))
    means = {
        "any": random.uniform(-0.8, 0.8, num_channels),
        "rgb": from_rgb @ (rgb - BIAS),
        "grey": from_rgb @ (rgb - BIAS),
        "none": random.normal(0, 0.05, num_channels),
    }[scene.colours]
    return (scene.contrast * x * spreads[:, None, None, None] + means[:, None, None, None])[None]


def _smooth(
    num_channels: int, size: tuple[int, int, int], scale: int, likeness: float, random: np.random.Generator
) -> np.ndarray:
    """Fields [C, T, H, W] of deviation 1, that vary over `scale` rows and columns, and from frame to frame."""
    num_latents, height, width = size
    coarse = random.standard_normal((num_channels, num_latents, height // scale + 2, width // scale + 2))
    for t in range(1, num_latents):
        coarse[:, t] = likeness * coarse[:, t - 1] + (1 - likeness**2) ** 0.5 * coarse[:, t]
    fields = coarse
    for axis, length in ((2, height), (3, width)):
        position = np.arange(length) / scale
        low = position.astype(int)
        part = (position - low).reshape((-1, 1) if axis == 2 else -1)
        fields = fields.take(low, axis) * (1 - part) + fields.take(low + 1, axis) * part
    return fields * (1.5 if scale > 1 else 1.0)  # what interpolation takes away
