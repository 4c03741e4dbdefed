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
from wanvae_app.formats.latent_layout import LatentShape, as_clip
from wanvae_app.formats.latent_parts import UNNAMED, LatentPart, LatentParts, find_parts
from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.tensor_file import lazy_tensors
from wanvae_app.formats.untrusted_text import first_line, printable

ACCEPTED = "a latent (.safetensors, .latent, .pt, .pth, .npy, .npz) or a video (.mp4, .mov, .webm, .gif)"
MAX_VALUES = 2**28  # 1 GiB in float32; 1,001 frames of 1080p are 2**27
MAX_NUM_LATENTS = 1024  # latent frames; 4,093 frames
MAX_LATENT_SIDE = 512  # latent rows or columns; 4,096 pixels (8,192 with patches)
MAX_ABS = 1000.0  # of a value; those of Wan's models are within 20 or so

SCALINGS = ("normalised", "raw")
COMFYUI_MARK = "latent_format_version_0"  # a tensor without values: the latent has no factor 0.18215
FINGERPRINT = re.compile("[0-9a-f]{16}")
FPS = re.compile(r"[1-9][0-9]{0,2}(\.[0-9]{1,6})?")  # 1 to 999


class ClipChoice(NamedTuple):
    """Which latent of a file is read, and how, where the file leaves that open."""

    part: str = ""  # a label as `clip_labels` gives it; empty: the only clip
    order: str = ""  # of the dimensions, one of ORDERS; empty: judged by shape and values


NO_CHOICE = ClipChoice()


class ClipLabels(NamedTuple):
    """The latents of a file by their labels: `clips`, decoded unless another is asked for, and `others`."""

    clips: list[str]
    others: list[str]


class ParsedLatent(NamedTuple):
    """A latent, float32 [1, C, T, H, W], and how its dimensions were read if that needs a word, else ""."""

    values: Tensor
    order: str


def parse_latent(path: Path, config: WanConfig) -> Tensor:
    """Read the latent of one clip: float32 [1, C, T, H, W] on the CPU, finite, in the scaling of the file.

    The format is told by the file's content, not its name. Shapes are checked before values are read, and nothing in
    the file is executed. Raises ValueError, with one sentence, for a damaged file and for one that holds no latent of
    this VAE, or several.
    """
    return parse_clip(path, config).values


def parse_clip(path: Path, config: WanConfig, choice: ClipChoice = NO_CHOICE) -> ParsedLatent:
    """Read what parse_latent does, or another latent of the file, and say in which order its dimensions were."""
    tensor, part = _find_part(path, config, choice)
    shape = part.layout.shape
    try:
        values = tensor.read()
        clip = values[part.place] if part.layout.num_clips > 1 else values
        z, order = as_clip(clip.float(), part.layout, choice.order)
    except (SafetensorError, RuntimeError, ValueError, MemoryError, OSError) as error:
        raise ValueError(f"{path.name}: {part.label} cannot be read: {first_line(error)}.") from error
    low, high = map(float, z.aminmax())  # without a copy; NaN and infinity show in the extremes
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _not_finite(z, shape, path)
    if (largest := max(-low, high)) > MAX_ABS:
        raise ValueError(
            f"{path.name} holds values up to {largest:.3g}; those of a latent are within 20 or so, and nothing can be "
            "seen in this; generate or save it again."
        )
    return ParsedLatent(z, order)


def latent_shape(path: Path, config: WanConfig, choice: ClipChoice = NO_CHOICE) -> LatentShape:
    """The shape of a file's latent, by its header alone. Raises ValueError as parse_latent does."""
    return _find_part(path, config, choice)[1].layout.shape


def clip_labels(path: Path, config: WanConfig, order: str = "") -> ClipLabels:
    """The latents of a file, by its header alone. Raises ValueError as parse_latent does, but not for several."""
    _, parts = _find_parts(path, config, order)
    return ClipLabels([part.label for part in parts.clips], [part.label for part in parts.others])


def _find_parts(path: Path, config: WanConfig, order: str) -> tuple[dict[str, LazyTensor], LatentParts]:
    """A file's tensors, unread, and which of them are latents; one at least is."""
    try:
        tensors = lazy_tensors(path)
    except TypeError as error:
        raise ValueError(f"{path.name} is not {ACCEPTED}, by its content.") from error
    if not tensors:
        raise ValueError(f"{path.name} holds no tensor; a latent [1, {config.z_dim}, T, H, W] is needed.")
    try:
        parts = find_parts(tensors, config, order)
    except ValueError as error:
        raise ValueError(f"{path.name} {error}.") from error
    if not parts.clips:
        raise ValueError(f"{path.name}: {_describe_mismatch(tensors, config)}.")
    return tensors, parts


def _find_part(path: Path, config: WanConfig, choice: ClipChoice) -> tuple[LazyTensor, LatentPart]:
    """The tensor that is chosen, unread, and the part of it. Raises ValueError for what cannot be a latent."""
    tensors, (clips, others) = _find_parts(path, config, choice.order)
    if choice.part:
        part = next((part for part in (*clips, *others) if part.label == choice.part), None)
        if part is None:
            known = ", ".join(part.label for part in (*clips, *others)[:4])
            raise ValueError(f"{path.name} has no latent {printable(choice.part)}; it has {known}.")
    elif len(clips) > 1:
        raise _several(clips, path)
    else:
        part = clips[0]
    tensor = tensors[part.name]
    _check_size(tensor, part, path)
    return tensor, part


def _several(clips: list[LatentPart], path: Path) -> ValueError:
    """The ValueError for a file with several clips, none of which is chosen."""
    if all(part.name == clips[0].name for part in clips):
        return ValueError(
            f"{path.name}: it holds a batch of {len(clips)}; save one clip per file, such as latent[0:1], or name one, "
            f"such as {clips[0].label}."
        )
    return ValueError(
        f"{path.name} holds {len(clips)} latents ({', '.join(part.label for part in clips[:4])}); save one per file, "
        "or name one."
    )


def _check_size(tensor: LazyTensor, part: LatentPart, path: Path) -> None:
    """Raise ValueError unless a tensor has floating point numbers, some, and not too many."""
    shape = part.layout.shape
    if 0 in tensor.shape:
        raise ValueError(
            f"{path.name}: a latent of shape {list(shape)} is empty; every dimension must be 1 or more."
        )
    side = max(shape.height, shape.width)
    if math.prod(tensor.shape) > MAX_VALUES or shape.num_latents > MAX_NUM_LATENTS or side > MAX_LATENT_SIDE:
        raise ValueError(
            f"{path.name}: a latent of shape {list(tensor.shape)} is too large; at most {MAX_NUM_LATENTS} latent "
            f"frames, {MAX_LATENT_SIDE} rows and columns and {MAX_VALUES} values are taken."
        )
    if not tensor.is_floating_point:
        raise ValueError(
            f"{path.name} holds numbers of type {tensor.dtype}; a latent has floating point numbers, "
            "as latent.float() makes them."
        )


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


class StoredFacts(NamedTuple):
    """What a file states of its latent; None if it does not."""

    scaling: str | None = None  # "normalised" or "raw"
    statistics: str | None = None  # see `latent_origin.fingerprint`
    is_comfyui: bool = False  # whether ComfyUI wrote it, or another program in its format
    fps: float | None = None  # frames per second of the video that was encoded


def stored_facts(path: Path) -> StoredFacts:
    """What a safetensors file states of its latent, as `write_latent` does."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            is_comfyui = COMFYUI_MARK in file.keys()  # noqa: SIM118 - it is no dictionary
    except (SafetensorError, OSError):
        return StoredFacts()
    scaling, statistics = metadata.get("scaling"), metadata.get("statistics", "")
    return StoredFacts(
        scaling if scaling in SCALINGS else None,
        statistics if FINGERPRINT.fullmatch(statistics) else None,
        is_comfyui,
        float(metadata["fps"]) if FPS.fullmatch(metadata.get("fps", "")) else None,
    )


def _describe_mismatch(tensors: dict[str, LazyTensor], config: WanConfig) -> str:
    """Why the largest of the tensors is no latent of this VAE, as the end of a sentence."""
    name, tensor = max(tensors.items(), key=lambda item: math.prod(item[1].shape))
    shape, channels = tensor.shape, config.z_dim
    subject = (
        f"its tensor{'' if name in UNNAMED else f' {printable(name)}'} has"
        if len(tensors) == 1
        else f"the largest of its {len(tensors)} tensors has"
    )
    states_shape = f"{subject} shape {printable(str(list(shape)))}"
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
