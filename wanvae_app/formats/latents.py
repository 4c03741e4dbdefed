"""Latents in files: read from whatever people save them in, checked before they are read, told raw or normalised."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.formats.lazy_tensor import LazyTensor, first_line, plain
from wanvae_app.formats.tensor_file import stored_tensors

ACCEPTED = "a latent (.safetensors, .latent, .pt, .pth, .npy) or a video (.mp4, .mov, .webm, .gif)"
NAMES = ("latent", "latent_tensor", "latents", "samples", "z")  # preferred where a file holds several tensors
MAX_VALUES = 2**28  # 1 GiB in float32; 1,001 frames of 1080p are 2**27
MAX_LATENTS = 1024  # latent frames: 4,093 frames
MAX_SIDE = 512  # latent rows or columns: 4,096 pixels, with patches 8,192
SCALINGS = ("normalised", "raw")
MAX_VALUE = 1000.0  # those of Wan's models are within 20 or so
CLOSE = 8.0  # nats: with less evidence than this, what most programs hand out is assumed; Wan's latents have 10 to 80
CLOSE_NOTE = " The two are hard to tell apart here: choose the other if the colours look wrong."


def read_latent(path: Path, config: WanConfig) -> Tensor:
    """The latent in a file, float32 [1, C, T, H, W], finite, on the CPU, in the file's own scaling.

    What the file is shows in its content, not its name. Shapes are looked at before values are read, and
    nothing in the file is executed. Raises ValueError, in one sentence, for everything else.
    """
    try:
        found = stored_tensors(path)
    except TypeError as error:
        raise ValueError(f"{path.name} is not {ACCEPTED}, by its content.") from error
    if not found:
        raise ValueError(f"{path.name} holds no tensor; a latent [1, {config.z_dim}, T, H, W] is needed.")
    name = _choose(found, config, path)
    shape = _clip_shape(found[name].shape, config)
    assert shape is not None
    try:
        z = found[name].read().float().reshape(shape)
    except (SafetensorError, RuntimeError, ValueError, MemoryError, OSError) as error:
        raise ValueError(f"{path.name}: {plain(name)} cannot be read: {first_line(error)}.") from error
    wrong = ~torch.isfinite(z)
    if num_wrong := int(wrong.sum()):
        what = "value that is no number" if num_wrong == 1 else "values that are no numbers"
        _, channel, t, row, column = np.unravel_index(int(wrong.flatten().byte().argmax()), shape)
        raise ValueError(
            f"{path.name} holds {num_wrong} {what} (NaN or infinity) in float32, the first in channel {channel}, "
            f"latent frame {t}, row {row}, column {column}; generate or save it again."
        )
    if (largest := float(z.abs().max())) > MAX_VALUE:
        raise ValueError(
            f"{path.name} holds values up to {largest:.3g}; those of a latent are within 20 or so, and nothing can be "
            "seen in this; generate or save it again."
        )
    return z


def stored_scaling(path: Path) -> str | None:
    """The scaling that `write_latent` noted in a file; None for other files."""
    try:
        with safe_open(path, "pt") as file:
            scaling = (file.metadata() or {}).get("scaling")
    except (SafetensorError, OSError):
        return None
    return scaling if scaling in SCALINGS else None


def guess_scaling(z: Tensor, config: WanConfig) -> tuple[str, str]:
    """Whether z [1, C, T, H, W] is "normalised" or "raw", and why, in a sentence with numbers.

    Both hypotheses are weighed over all channels: a normalised latent's channels have means within about 0.8
    of 0 and standard deviations of 0.6 to 1.2; a raw one's have these after (z - mean) / std of the family.
    """
    mean, std = (
        torch.tensor(values, dtype=torch.float64) for values in (config.latents_mean, config.latents_std)
    )
    flat = z[0].flatten(1).double()
    m, s = flat.mean(1), flat.std(1, correction=0).clamp_min(1e-6)

    def unlikely(m: Tensor, s: Tensor) -> Tensor:
        # Heavy tails: a few odd channels must not outvote the rest. A single value has no spread to judge.
        spread = ((s / 0.9).log() / 0.35).square() if flat.shape[1] > 1 else torch.zeros_like(s)
        return (1 + (m / 0.5).square()).log() + (1 + spread).log()

    # The raw hypothesis has another unit: log(std) makes its density of the mean comparable.
    raw_minus_normalised = float((unlikely((m - mean) / std, s / std) + std.log() - unlikely(m, s)).sum())
    scaling = "raw" if raw_minus_normalised < -CLOSE else "normalised"
    typical = float(std.median())
    return scaling, (
        f"Taken as {scaling}: its channels' standard deviations are around {float(s.median()):.2f} and their means "
        f"within {float(m.abs().max()):.2f} of 0, where this VAE's normalised latents have about 0.9 and 0.8, "
        f"raw ones about {0.9 * typical:.2f} and {float(mean.abs().max()):.2f}."
    ) + (CLOSE_NOTE if abs(raw_minus_normalised) < CLOSE else "")


def to_raw(z: Tensor, config: WanConfig, scaling: str) -> Tensor:
    """The decoder's scale: z * std + mean of a normalised latent; a raw one as it is."""
    if scaling == "raw":
        return z
    mean, std = _statistics(z, config)
    return z * std + mean


def to_normalised(z: Tensor, config: WanConfig) -> Tensor:
    """(z - mean) / std of a raw latent."""
    mean, std = _statistics(z, config)
    return (z - mean) / std


def write_latent(z: Tensor, path: Path, config: WanConfig) -> None:
    """Save a raw latent [1, C, T, H, W] normalised, as diffusers pipelines hand them out; key "latent".

    Raises OSError if it cannot be written.
    """
    tensor = to_normalised(z.detach().float().cpu(), config).contiguous()
    try:
        save_file({"latent": tensor}, path, {"scaling": "normalised", "format": "pt"})
    except SafetensorError as error:
        raise OSError(first_line(error)) from error


def _statistics(z: Tensor, config: WanConfig) -> tuple[Tensor, Tensor]:
    mean, std = (
        z.new_tensor(values).view(-1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    return mean, std


def _clip_shape(shape: tuple[int, ...], config: WanConfig) -> tuple[int, ...] | None:
    """[1, C, T, H, W] for a shape that is one but for its batch or (of a picture) time dimension, else None."""
    channels = config.z_dim
    if len(shape) == 5 and shape[:2] == (1, channels):
        return shape
    if len(shape) == 4 and shape[0] == channels:
        return (1, *shape)
    if len(shape) == 4 and shape[:2] == (1, channels):
        return (1, channels, 1, *shape[2:])
    if len(shape) == 3 and shape[0] == channels:
        return (1, channels, 1, *shape[1:])
    return None


def _choose(found: dict[str, LazyTensor], config: WanConfig, path: Path) -> str:
    """The name of the one tensor that can be the latent. ValueError says what there is instead."""
    fitting = [name for name, tensor in found.items() if _clip_shape(tensor.shape, config)]
    if not fitting:
        raise ValueError(f"{path.name}: {_why_not(found, config)}.")
    usual = ([name for name in fitting if name.rpartition(".")[2] == known] for known in NAMES)
    candidates = next(filter(None, usual), fitting)
    if len(candidates) > 1:
        raise ValueError(
            f"{path.name} holds {len(candidates)} latents ({', '.join(map(plain, candidates[:4]))}); "
            "save one per file."
        )
    name = candidates[0]
    shape = _clip_shape(found[name].shape, config) or ()
    if 0 in shape:
        raise ValueError(
            f"{path.name}: a latent of shape {list(shape)} is empty; every dimension must be 1 or more."
        )
    if math.prod(shape) > MAX_VALUES or shape[2] > MAX_LATENTS or max(shape[3:]) > MAX_SIDE:
        raise ValueError(
            f"{path.name}: a latent of shape {list(shape)} is too large; at most {MAX_LATENTS} latent frames, "
            f"{MAX_SIDE} rows and columns and {MAX_VALUES} values are taken."
        )
    if not found[name].floating:
        raise ValueError(
            f"{path.name} holds numbers of type {found[name].dtype}; a latent has floating point numbers, "
            "as latent.float() makes them."
        )
    return name


def _why_not(found: dict[str, LazyTensor], config: WanConfig) -> str:
    name, tensor = max(found.items(), key=lambda item: math.prod(item[1].shape))
    shape, channels = tensor.shape, config.z_dim
    what = (
        f"its tensor {plain(name)} has" if len(found) == 1 else f"the largest of its {len(found)} tensors has"
    )
    what = f"{what} shape {plain(str(list(shape)))}"
    if len(shape) == 5 and shape[1] == channels:
        return f"it holds a batch of {shape[0]}; save one clip per file, such as latent[0:1]"
    if len(shape) >= 3 and shape[-3] == channels:
        return f"{what}, with channels and frames exchanged; save latent.transpose(-4, -3)"
    other = {preset.z_dim: f"Wan {name[3:]}" for name, preset in PRESETS.items() if preset.z_dim != channels}
    num_channels = (
        shape[0] if len(shape) == 4 and shape[0] != 1 else shape[1] if len(shape) in (4, 5) else None
    )
    if num_channels in other:
        vae = f"a {other[num_channels]} VAE, which --vae loads"
        return f"it has {num_channels} channels where this VAE has {channels}; it would fit {vae}"
    return f"{what}; a latent for this VAE has [1, {channels}, T, H, W]"
