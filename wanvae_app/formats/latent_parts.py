"""Which tensors of a file are clips' latents: told by their shapes, and preferred by the meaning of their names."""

from __future__ import annotations

import re
from typing import NamedTuple

from wanvae_app.config import WanConfig
from wanvae_app.formats.latent_layout import LatentLayout, find_layout
from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.untrusted_text import printable

MAX_PARTS = 64  # clips of a file, and other latents in it, that are listed
UNNAMED = ("tensor", "array")  # how a file's only tensor is listed, if it has no name
# The last part of a name, best first; the words of any part; and words of what is no result.
USUAL_NAMES = ("latent", "latent_tensor", "latents", "samples", "z")
RESULTS = frozenset({"clean", "denoised", "final", "x0", "result", "output", "latent", "latents", "samples"})
NO_RESULTS = frozenset(
    {"noise", "noisy", "noised", "mask", "masked", "cond", "uncond", "condition", "conditioning", "init"}
    | {"initial", "first", "last", "image", "ref", "reference", "start", "grad", "velocity", "pred", "guess"}
)
LAST_RANK = 9


class LatentPart(NamedTuple):
    """The latent of one clip: a tensor of a file, or one clip of a tensor's batch."""

    label: str  # the tensor's name, with [index] behind it if it holds several clips; printable
    name: str  # of the tensor
    place: int  # of the clip in its batch
    layout: LatentLayout  # of the tensor


class LatentParts(NamedTuple):
    """The latents of a file: `clips`, which are decoded unless another is asked for, and `others`."""

    clips: list[LatentPart]
    others: list[LatentPart]


def find_parts(tensors: dict[str, LazyTensor], config: WanConfig, order: str = "") -> LatentParts:
    """The latents of this VAE among a file's tensors, in the file's order.

    A result, such as "latents", comes before what is no result, such as "noise". Latents of equal rank are clips.
    `order` is as for `find_layout`. Raises ValueError, as the end of a sentence, for more than MAX_PARTS clips.
    """
    layouts = {
        name: layout
        for name, tensor in tensors.items()
        if (layout := find_layout(tensor.shape, config, order))
    }
    numbers = [name for name in layouts if tensors[name].is_floating_point]
    names = numbers or list(layouts)
    best = min(map(_rank, names), default=LAST_RANK)
    clips: list[LatentPart] = []
    others: list[LatentPart] = []
    labels: set[str] = set()
    for name in names:
        num_clips = layouts[name].num_clips
        target = clips if _rank(name) == best else others
        if target is clips and len(clips) + num_clips > MAX_PARTS:
            raise ValueError(f"holds more than {MAX_PARTS} clips; save fewer in a file")
        for index in range(max(1, num_clips))[: MAX_PARTS - len(target)]:
            label = printable(name) + (f"[{index}]" if num_clips > 1 else "")
            while label in labels:  # what is not printable may have been the difference
                label += "'"
            labels.add(label)
            target.append(LatentPart(label, name, index, layouts[name]))
    return LatentParts(clips, others)


def _rank(name: str) -> int:
    """How far a name is from that of a result; 0 is best."""
    words = set(re.findall(r"[a-z]+\d?", name.lower()))
    last = name.rpartition(".")[2].lower()
    if words & NO_RESULTS:
        return LAST_RANK
    if last in USUAL_NAMES:
        return 1 + USUAL_NAMES.index(last)
    if {"clean", "denoised", "final"} & words:
        return 0
    return 6 if words & RESULTS else 7
