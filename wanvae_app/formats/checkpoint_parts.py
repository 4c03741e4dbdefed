"""The VAE's tensors in a file that may hold more: other models, a second VAE, scales of fp8 weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from wanvae_app.formats.key_maps import FIRST_WEIGHTS
from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.untrusted_text import printable
from wanvae_app.formats.weights_file import WeightsFile

MAX_TENSORS = 2000  # of a VAE; Wan 2.2's has 196
MAX_NAMED = 6  # parts in a sentence
FIRST_WEIGHT = re.compile(
    r"((?:.*\.)?)(?:" + "|".join(re.escape(name) for names in FIRST_WEIGHTS.values() for name in names) + ")"
)
# Words in a part's name. Averaged weights are meant for use, whatever is trained beside them.
AVERAGED = ("ema", "averaged", "swa")
OTHER = ("non", "teacher", "init", "initial", "old", "reference", "discriminator", "audio")
NO_PREFIX = "."  # names the part whose tensors have no prefix
# The scale of NAME.weight, as ComfyUI's files call it, first the older way; of what else these files hold, endings.
SCALES = ("scale_weight", "weight_scale")
BESIDE_WEIGHTS = (*SCALES, "scale_input", "input_scale", "comfy_quant")


class VaeTensors(NamedTuple):
    """The VAE in a file."""

    tensors: dict[str, LazyTensor]  # by name, without the prefix that all the names share
    notes: tuple[str, ...]  # what a user should know, in sentences


@dataclass(frozen=True)
class _Part:
    """One VAE of a file."""

    prefix: str  # empty, or with a full stop at the end
    num_sides: int  # 2: encoder and decoder

    @property
    def name(self) -> str:
        """What a user calls the part."""
        return self.prefix.removesuffix(".") or NO_PREFIX

    @property
    def preference(self) -> tuple[int, int, int, str]:
        """A key that sorts parts, the best first."""
        words = re.split(r"[\W_]+", self.prefix.lower())
        rank = 2 if any(word in OTHER for word in words) else 1
        if rank == 1 and any(word in AVERAGED for word in words):
            rank = 0
        return -self.num_sides, rank, len(self.prefix), self.prefix


def select_vae(found: dict[str, LazyTensor], file: WeightsFile) -> VaeTensors:
    """Choose the VAE among all tensors of a file, by name.

    A file may hold it as part of a model or a dictionary: vae.decoder..., state_dict.model.decoder... Of several, a
    whole one is preferred, and one of averaged weights. Raises ValueError if the file has not the part that is asked
    for, or more tensors than a VAE has.
    """
    parts = sorted(_parts(found), key=lambda part: part.preference)
    chosen = _named(parts, file) if file.part else next(iter(parts), None)
    prefix = chosen.prefix if chosen is not None else ""
    tensors = {name.removeprefix(prefix): part for name, part in found.items() if name.startswith(prefix)}
    if prefix == "":  # the other parts' names begin otherwise
        others = tuple(part.prefix for part in parts if part.prefix)
        tensors = {name: part for name, part in tensors.items() if not others or not name.startswith(others)}
    if len(tensors) > MAX_TENSORS:
        raise ValueError(
            f"{file.path.name} is not a Wan VAE: it holds {len(tensors)} tensors, where these have some hundred."
        )
    notes: tuple[str, ...] = ()
    if len(parts) > 1 and chosen is not None and not file.part:
        notes = (
            f"{file.path.name} holds {len(parts)} VAEs ({_list(parts)}), of which {_said(chosen)} is used; "
            f"--vae {file.path.name}:{printable(parts[1].name)} takes another.",
        )
    return VaeTensors(_scaled(tensors), notes)


def _parts(found: dict[str, LazyTensor]) -> list[_Part]:
    """The VAEs of a file: what has the first weight of an encoder or a decoder, a three-dimensional convolution."""
    sides: dict[str, int] = {}
    for name, tensor in found.items():
        match = FIRST_WEIGHT.fullmatch(name)
        if match is not None and len(tensor.shape) == 5:
            sides[match[1]] = sides.get(match[1], 0) + 1
    return [_Part(prefix, count) for prefix, count in sides.items()]


def _named(parts: list[_Part], file: WeightsFile) -> _Part:
    """The part that the user names, whole or by some of its words, such as ema for state_dict.ema."""
    fitting = [part for part in parts if part.name == file.part]
    fitting = fitting or [part for part in parts if file.part in part.name.split(".")]
    if len(fitting) == 1:
        return fitting[0]
    has = f"it has {_list(parts)}" if parts else "it has none"
    raise ValueError(f"{file.path.name} has no VAE called {file.part[:40]!r}; {has}.")


def _said(part: _Part) -> str:
    return printable(part.prefix.removesuffix(".")) or f"{NO_PREFIX} for names without a prefix"


def _list(parts: list[_Part]) -> str:
    return ", ".join(map(_said, parts[:MAX_NAMED])) + (", ..." if len(parts) > MAX_NAMED else "")


def _scaled(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors without the scales of fp8 weights, which are multiplied with them when they are read."""
    scaled = {name: tensor for name, tensor in tensors.items() if not name.endswith(BESIDE_WEIGHTS)}
    for name, tensor in scaled.items():
        stem = name.removesuffix("weight")
        scale = next((tensors[stem + ending] for ending in SCALES if stem + ending in tensors), None)
        if scale is not None and stem != name:
            scaled[name] = replace(tensor, read=partial(_multiply, tensor, scale))
    return scaled


def _multiply(tensor: LazyTensor, scale: LazyTensor) -> Tensor:
    """Read weight * scale, in float32. The scale is one number, or one for each channel out.

    Raises ValueError for another scale.
    """
    weight = tensor.read().to(torch.float32)
    if math.prod(scale.shape) not in (1, *weight.shape[:1]):
        raise ValueError(
            f"a scale of shape {printable(str(scale.shape))} is not understood; give the weights in bf16"
        )
    return weight * scale.read().to(torch.float32).view(-1, *(1,) * (weight.ndim - 1))
