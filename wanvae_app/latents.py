"""Latents in files: read from whatever people save them in, checked before they are read, told raw or normalised."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig

ACCEPTED = "a latent (.safetensors, .latent, .pt, .pth, .npy) or a video (.mp4, .mov, .webm, .gif)"
NAMES = ("latent", "latent_tensor", "latents", "samples", "z")  # preferred where a file holds several tensors
MAX_VALUES = 2**28  # 1 GiB in float32; 1,001 frames of 1080p are 2**27
MAX_SIDE = 512  # latent rows or columns: 4,096 pixels, with patches 8,192
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # of safetensors
SCALINGS = ("normalised", "raw")


def read_latent(path: Path, config: WanConfig) -> Tensor:
    """The latent in a file, float32 [1, C, T, H, W], finite, on the CPU, in the file's own scaling.

    What the file is shows in its content, not its name. Shapes are looked at before values are read, and
    nothing in the file is executed. Raises ValueError, in one sentence, for everything else.
    """
    found = _open(path)
    if not found:
        raise ValueError(f"{path.name} holds no tensor; a latent [1, {config.z_dim}, T, H, W] is needed.")
    name, tensor = _choose(found, config, path)
    try:
        z = _as_clip(tensor, _clip_shape(_shape(tensor), config) or ())
    except (SafetensorError, RuntimeError, ValueError, MemoryError, OSError) as error:
        raise ValueError(f"{path.name}: {name} cannot be read: {_first_line(error)}") from error
    wrong = ~torch.isfinite(z)
    if num_wrong := int(wrong.sum()):
        _, channel, t, row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{path.name} holds {num_wrong} values that are no numbers (NaN or infinity), the first in channel "
            f"{channel}, latent frame {t}, row {row}, column {column}; generate or save it again."
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

    normalised = unlikely(m, s).sum()
    raw = (
        unlikely((m - mean) / std, s / std) + std.log()
    ).sum()  # the mean's density, in the latent's own units
    scaling = "normalised" if normalised <= raw else "raw"
    typical = float(std.median())
    return scaling, (
        f"Taken as {scaling}: its channels' standard deviations are around {float(s.median()):.2f} and their means "
        f"within {float(m.abs().max()):.2f} of 0, where this VAE's normalised latents have about 0.9 and 0.8, "
        f"raw ones about {0.9 * typical:.2f} and {float(mean.abs().max()):.2f}."
    )


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
        raise OSError(_first_line(error)) from error


def _statistics(z: Tensor, config: WanConfig) -> tuple[Tensor, Tensor]:
    mean, std = (
        z.new_tensor(values).view(-1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    return mean, std


class _Stored:
    """A tensor of a safetensors file whose values have not been read."""

    def __init__(self, path: Path, name: str, shape: list[int], dtype: str) -> None:
        self.path, self.name, self.shape, self.dtype = path, name, shape, dtype

    def read(self) -> Tensor:
        with safe_open(self.path, "pt") as file:
            return file.get_tensor(self.name)


def _open(path: Path) -> dict[str, Any]:
    """The tensors in a file, by name, their values not yet read: _Stored, torch's or NumPy's (mapped)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
    if size == 0:
        raise ValueError(f"{path.name} is empty; give {ACCEPTED}.")
    try:
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
            with safe_open(path, "pt") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                return {n: _Stored(path, n, p.get_shape(), p.get_dtype()) for n, p in parts.items()}
        if head.startswith(b"\x93NUMPY"):
            return {"array": np.load(path, mmap_mode="r", allow_pickle=False)}
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > 2 * size + 2**20:
                    raise ValueError("it would expand to much more than its size; save it with torch.save")
            return dict(_tensors(torch.load(path, "cpu", weights_only=True, mmap=True)))
        if head[:1] == b"\x80":  # a pickle: torch.save before version 1.6
            return dict(_tensors(torch.load(path, "cpu", weights_only=True)))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} holds Python objects, which are not read for safety; save the tensor alone, "
            "with torch.save(latent, file)."
        ) from error
    except (SafetensorError, zipfile.BadZipFile, RuntimeError, ValueError, EOFError, MemoryError, OSError,
            TypeError, KeyError, AttributeError, IndexError) as error:  # fmt: skip
        raise ValueError(f"{path.name} is damaged or cut off: {_first_line(error)}.") from error
    raise ValueError(f"{path.name} is not {ACCEPTED}, by its content.")


def _tensors(value: Any, name: str = "tensor", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict) and depth < 3:
        for key, item in value.items():
            yield from _tensors(item, str(key), depth + 1)
    elif isinstance(value, list | tuple) and depth < 3:
        for index, item in enumerate(value[:100]):
            yield from _tensors(item, f"{name}[{index}]", depth + 1)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in tensor.shape)


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


def _choose(found: dict[str, Any], config: WanConfig, path: Path) -> tuple[str, Any]:
    """The one tensor that can be the latent. ValueError says what there is instead."""
    fitting = [name for name, tensor in found.items() if _clip_shape(_shape(tensor), config)]
    preferred = [name for name in NAMES if name in fitting] or fitting
    if not preferred:
        raise ValueError(f"{path.name}: {_why_not(found, config)}.")
    if len(preferred) > 1 and preferred[0] not in NAMES:
        raise ValueError(
            f"{path.name} holds several latents ({', '.join(preferred[:4])}); save one per file."
        )
    name = preferred[0]
    shape, dtype = _clip_shape(_shape(found[name]), config) or (), str(found[name].dtype)
    if 0 in shape:
        raise ValueError(
            f"{path.name}: a latent of shape {list(shape)} is empty; every dimension must be 1 or more."
        )
    if math.prod(shape) > MAX_VALUES or max(shape[3:]) > MAX_SIDE:
        raise ValueError(
            f"{path.name}: a latent of shape {list(shape)} is too large; at most {MAX_SIDE} rows and columns and "
            f"{MAX_VALUES} values are taken."
        )
    if not (dtype in FLOATS or "float" in dtype):
        raise ValueError(f"{path.name} holds numbers of type {dtype}; a latent has floating point numbers.")
    return name, found[name]


def _why_not(found: dict[str, Any], config: WanConfig) -> str:
    name, tensor = max(found.items(), key=lambda item: math.prod(_shape(item[1])))
    shape, channels = _shape(tensor), config.z_dim
    needed = f"[1, {channels}, T, H, W] is needed"
    what = (
        f"its tensor has shape {list(shape)}"
        if len(found) == 1
        else f"none of its {len(found)} tensors is a latent"
    )
    if len(shape) != 5:
        return f"{what}, {needed}"
    if shape[1] == channels and shape[0] != 1:
        return f"it holds a batch of {shape[0]}; save one clip per file, such as latent[0:1]"
    if shape[2] == channels:
        return f"{what}, with channels and frames exchanged; save latent.transpose(1, 2)"
    family = {preset.z_dim: f"Wan {name[3:]}" for name, preset in PRESETS.items()}.get(shape[1])
    fits = f"; it would fit a {family} VAE, which --vae can load" if family else ""
    return f"it has {shape[1]} channels where this VAE has {channels}{fits}"


def _as_clip(tensor: Any, shape: tuple[int, ...]) -> Tensor:
    if isinstance(tensor, _Stored):
        tensor = tensor.read()
    elif isinstance(tensor, np.ndarray):
        tensor = torch.from_numpy(np.array(tensor, dtype=np.float32, order="C"))
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise ValueError("its values are not in the file")
    return tensor.detach().to(torch.float32).reshape(shape).clone()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__).removesuffix(".")
