"""PSNR of encoding and decoding real clips, which are used for measuring alone."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE


def read(path: str, num: int = 17, height: int = 256) -> Tensor:
    """Read `num` frames of a clip, scaled to `height` rows, as [1, 3, T, H, W] in [-1, 1].

    The path "clip.mp4@60" begins at frame 60.
    """
    name, _, start = path.partition("@")
    frames = []
    for i, frame in enumerate(iio.imiter(name, plugin="FFMPEG")):
        if i >= int(start or 0):
            width = round(frame.shape[1] * height / frame.shape[0] / 16) * 16
            frames.append(
                np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
            )
        if len(frames) == num:
            break
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def label(path: str) -> str:
    """The name of a clip in a report: its file's name without suffix, and where it begins."""
    name, _, start = path.partition("@")
    return Path(name).stem + (f"@{start}" if start else "")


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(-10 * torch.log10(((a.double() - b.double()) / 2).square().mean()))


@torch.no_grad()
def round_trip(vae: WanVAE, clip: Tensor) -> Tensor:
    """Encode a clip [1, 3, T, H, W] and decode it again."""
    return vae.decode(vae.encode(clip, ClipState()), ClipState())


def measure(vae: WanVAE, clips: dict[str, Tensor]) -> dict[str, float]:
    """PSNR of a round trip of each clip, in dB."""
    return {name: round(psnr(round_trip(vae, clip), clip), 2) for name, clip in clips.items()}
