"""A latent in a file of any common format: found among the file's tensors, checked before its values are read.

Runs in the process of its own that `latents.read_latent` starts it in, as the files are not trusted.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.errors import plural
from wanvae_app.formats.latent_layout import LatentLayout, LatentShape, as_clip, find_layout
from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.tensor_file import lazy_tensors
from wanvae_app.formats.untrusted_text import first_line, printable

ACCEPTED = "a latent (.safetensors, .latent, .pt, .pth, .npy, .npz) or a video (.mp4, .mov, .webm, .gif)"
# Preferred where several tensors of a file could be the latent.
USUAL_NAMES = ("latent", "latent_tensor", "latents", "samples", "z")
UNNAMED = "tensor"  # how a file's only tensor is listed, if it has no name
MAX_VALUES = 2**28  # 1 GiB in float32; 1,001 frames of 1080p are 2**27
MAX_NUM_LATENTS = 1024  # latent frames; 4,093 frames
MAX_LATENT_SIDE = 512  # latent rows or columns; 4,096 pixels (8,192 with patches)
MAX_ABS = 1000.0  # of a value; those of Wan's models are within 20 or so

SCALINGS = ("normalised", "raw")
FINGERPRINT = re.compile("[0-9a-f]{16}")


class ParsedLatent(NamedTuple):
    """The latent of a file, float32 [1, C, T, H, W], and how its dimensions were read if that needs a word, else ""."""

    values: Tensor
    order: str


def parse_latent(path: Path, config: WanConfig) -> Tensor:
    """Read the latent of one clip: float32 [1, C, T, H, W] on the CPU, finite, in the scaling of the file.

    The format is told by the file's content, not its name. Shapes are checked before values are read, and nothing in
    the file is executed. Raises ValueError, with one sentence, for a damaged file and for one that holds no latent of
    this VAE, or several.
    """
    return parse_clip(path, config).values


def parse_clip(path: Path, config: WanConfig) -> ParsedLatent:
    """Read what parse_latent does, and say in which order its dimensions were."""
    tensor, name, layout = _find_latent(path, config)
    shape = layout.shape
    try:
        z, order = as_clip(tensor.read().float(), layout)
    except (SafetensorError, RuntimeError, ValueError, MemoryError, OSError) as error:
        raise ValueError(f"{path.name}: {printable(name)} cannot be read: {first_line(error)}.") from error
    low, high = map(float, z.aminmax())  # without a copy; NaN and infinity show in the extremes
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _not_finite(z, shape, path)
    if (largest := max(-low, high)) > MAX_ABS:
        raise ValueError(
            f"{path.name} holds values up to {largest:.3g}; those of a latent are within 20 or so, and nothing can be "
            "seen in this; generate or save it again."
        )
    return ParsedLatent(z, order)


def latent_shape(path: Path, config: WanConfig) -> LatentShape:
    """The shape of a file's latent, by its header alone. Raises ValueError as parse_latent does."""
    return _find_latent(path, config)[2].shape


def _find_latent(path: Path, config: WanConfig) -> tuple[LazyTensor, str, LatentLayout]:
    """The tensor of a file that is its latent, unread, with its name and its layout."""
    try:
        tensors = lazy_tensors(path)
    except TypeError as error:
        raise ValueError(f"{path.name} is not {ACCEPTED}, by its content.") from error
    if not tensors:
        raise ValueError(f"{path.name} holds no tensor; a latent [1, {config.z_dim}, T, H, W] is needed.")
    name, layout = _choose_latent(tensors, config, path)
    return tensors[name], name, layout


def _not_finite(z: Tensor, shape: LatentShape, path: Path) -> ValueError:
    """The ValueError for a latent with values that are no numbers, which says where the first is."""
    not_finite = ~torch.isfinite(z)
    num_not_finite = int(not_finite.sum())
    what = "value that is no number" if num_not_finite == 1 else "values that are no numbers"
    _, channel, t, row, column = np.unravel_index(int(not_finite.flatten().byte().argmax()), shape)
    return ValueError(
        f"{path.name} holds {num_not_finite} {what} (NaN or infinity) in float32, the first in channel {channel}, "
        f"latent frame {t}, row {row}, column {column}; generate or save it again."
    )


def stored_facts(path: Path) -> tuple[str | None, str | None]:
    """The scaling and the fingerprint of statistics that a safetensors file states, as `write_latent` does.

    None stands for what it does not state.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None, None
    scaling, statistics = metadata.get("scaling"), metadata.get("statistics", "")
    return scaling if scaling in SCALINGS else None, statistics if FINGERPRINT.fullmatch(statistics) else None


def _choose_latent(tensors: dict[str, LazyTensor], config: WanConfig, path: Path) -> tuple[str, LatentLayout]:
    """Name and layout of the one tensor that can be the latent. Raises ValueError, which says what there is instead."""
    layouts = {
        name: layout for name, tensor in tensors.items() if (layout := find_layout(tensor.shape, config))
    }
    if not layouts:
        raise ValueError(f"{path.name}: {_describe_mismatch(tensors, config)}.")
    by_usual_name = ([name for name in layouts if name.rpartition(".")[2] == usual] for usual in USUAL_NAMES)
    candidates = next(filter(None, by_usual_name), list(layouts))
    if len(candidates) > 1:
        raise ValueError(
            f"{path.name} holds {len(candidates)} latents ({', '.join(map(printable, candidates[:4]))}); "
            "save one per file."
        )
    name = candidates[0]
    shape = layouts[name].shape
    if 0 in shape:
        raise ValueError(
            f"{path.name}: a latent of shape {list(shape)} is empty; every dimension must be 1 or more."
        )
    side = max(shape.height, shape.width)
    if math.prod(shape) > MAX_VALUES or shape.num_latents > MAX_NUM_LATENTS or side > MAX_LATENT_SIDE:
        raise ValueError(
            f"{path.name}: a latent of shape {list(shape)} is too large; at most {MAX_NUM_LATENTS} latent frames, "
            f"{MAX_LATENT_SIDE} rows and columns and {MAX_VALUES} values are taken."
        )
    if not tensors[name].is_floating_point:
        raise ValueError(
            f"{path.name} holds numbers of type {tensors[name].dtype}; a latent has floating point numbers, "
            "as latent.float() makes them."
        )
    return name, layouts[name]


def _describe_mismatch(tensors: dict[str, LazyTensor], config: WanConfig) -> str:
    """Why the largest of the tensors is no latent of this VAE, as the end of a sentence."""
    name, tensor = max(tensors.items(), key=lambda item: math.prod(item[1].shape))
    shape, channels = tensor.shape, config.z_dim
    subject = (
        f"its tensor{'' if name == UNNAMED else f' {printable(name)}'} has"
        if len(tensors) == 1
        else f"the largest of its {len(tensors)} tensors has"
    )
    states_shape = f"{subject} shape {printable(str(list(shape)))}"
    if len(shape) == 5 and shape[1] == channels:
        return f"it holds a batch of {shape[0]}; save one clip per file, such as latent[0:1]"
    if len(shape) >= 4 and shape[-3] == channels:
        return (
            f"{states_shape}: that may be {plural(shape[-4], 'frame')} before {channels} channels, or another VAE's "
            "latent; save latent.transpose(-4, -3) if it is the first"
        )
    other = {preset.z_dim: f"Wan {name[3:]}" for name, preset in PRESETS.items() if preset.z_dim != channels}
    num_channels = (
        shape[0] if len(shape) == 4 and shape[0] != 1 else shape[1] if len(shape) in (4, 5) else None
    )
    if num_channels in other:
        vae = f"a {other[num_channels]} VAE, which --vae loads"
        return f"it has {plural(num_channels, 'channel')} where this VAE has {channels}; it would fit {vae}"
    return f"{states_shape}; a latent for this VAE has [1, {channels}, T, H, W]"
