"""Draw the sample clips and encode the sample latents. Run it again when the demo VAE's weights change.

python assets/samples/make_samples.py [--only latents]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import imageio.v2 as iio
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "demo_vae"
sys.path[:0] = [str(HERE.parent.parent), str(DEMO)]

import pictures  # noqa: E402
from textures import Textures  # noqa: E402

from wanvae_app.formats.checkpoint import load_vae  # noqa: E402
from wanvae_app.model.clip_state import ClipState  # noqa: E402
from wanvae_app.model.vae import WanVAE  # noqa: E402

# Name, scene, frames, height and width. The first latent is small enough for a CPU.
LATENTS = (
    ("Rolling marbles", pictures.marbles, 17, 256, 256),
    ("Night credits", pictures.credits, 33, 320, 512),
    ("Bicycle at sunset", pictures.bicycle, 17, 480, 832),
)
CLIPS = (
    ("Balloons over the hills", pictures.balloons, 33, 272, 480),
    ("Fish pond", pictures.pond, 33, 272, 480),
)
FPS = 16


def draw_scene(scene: Callable[..., Tensor], num: int, height: int, width: int) -> Tensor:
    """Draw a scene of pictures.py with `num` frames: [3, T, H, W] in [0, 1]."""
    return scene(num, height, width, Textures(20, np.random.default_rng(2))).clamp(0, 1)


@torch.no_grad()
def encode(vae: WanVAE, frames: Tensor) -> Tensor:
    """Encode frames [3, T, H, W] in [0, 1] to a normalised latent [1, 16, T', H / 8, W / 8]."""
    raw = vae.encode(frames[None] * 2 - 1, ClipState())
    statistics = vae.config.latents_mean, vae.config.latents_std
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in statistics)
    return (raw - mean) / std


def save_latent(path: Path, frames: Tensor) -> None:
    """Encode frames [3, T, H, W] in [0, 1] with the demo VAE, and write the latent in float16."""
    latent = encode(load_vae(str(DEMO), torch.float32, torch.device("cpu")), frames).half().contiguous()
    save_file({"latent": latent}, path, metadata={"scaling": "normalised", "fps": str(FPS)})
    path.chmod(0o644)


def save_clip(path: Path, frames: Tensor) -> None:
    """Write frames [3, T, H, W] in [0, 1] as H.264."""
    options = ["-crf", "20", "-preset", "slow", "-movflags", "+faststart"]
    with iio.get_writer(
        path, fps=FPS, codec="libx264", quality=None, macro_block_size=1, output_params=options
    ) as out:
        for frame in (frames.permute(1, 2, 3, 0) * 255).round().byte().numpy():
            out.append_data(frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("latents", "clips"))
    args = parser.parse_args()
    for kind, suffix, samples, save in (
        ("latents", "safetensors", LATENTS, save_latent),
        ("clips", "mp4", CLIPS, save_clip),
    ):
        if args.only in (None, kind):
            for name, scene, num, height, width in samples:
                path = HERE / f"{name}.{suffix}"
                save(path, draw_scene(scene, num, height, width))
                print(f"{path.name}: {num} frames of {width}x{height}, {path.stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
