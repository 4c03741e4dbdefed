"""The names of the Wan VAE's weights in other programs' files: from and to the official and diffusers' names.

The names and shapes of a file's tensors alone tell its naming scheme and which member of the Wan VAE family it
holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

from wanvae_app.config import MEAN_2_1, MEAN_2_2, STD_2_1, STD_2_2, WanConfig
from wanvae_app.formats.untrusted_text import printable

# A naming scheme: that of Wan2.1_VAE.pth and files derived from it, or that of diffusers' AutoencoderKLWan.
Naming = Literal["official", "diffusers"]
Shapes = Mapping[str, tuple[int, ...]]  # by the names of a file's tensors

NAMINGS: tuple[Naming, ...] = get_args(Naming)
FIRST_DECODER_WEIGHT: dict[Naming, str] = {
    "official": "decoder.conv1.weight",
    "diffusers": "decoder.conv_in.weight",
}
# The tables map our names to those of a scheme. What is not listed has the same name in both.
# Layers of a residual block or a resampling step:
_LAYERS: dict[Naming, dict[str, str]] = {
    "official": {
        "norm1": "residual.0",
        "conv1": "residual.2",
        "norm2": "residual.3",
        "conv2": "residual.6",
        "resample.conv": "resample.1",
        "resample.time_conv": "time_conv",
    },
    "diffusers": {
        "shortcut": "conv_shortcut",
        "resample.conv": "resample.1",
        "resample.time_conv": "time_conv",
    },
}
# Layers before and after the levels:
_ENDS: dict[Naming, dict[str, str]] = {
    "official": {"conv_in": "conv1", "head.norm": "head.0", "head.conv": "head.2"},
    "diffusers": {"head.norm": "norm_out", "head.conv": "conv_out"},
}
# Blocks between encoder or decoder levels and the latent:
_MIDDLE: dict[Naming, tuple[str, str, str]] = {
    "official": ("middle.0", "middle.1", "middle.2"),
    "diffusers": ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
}
# Convolutions outside encoder and decoder:
_QUANT: dict[Naming, dict[str, str]] = {
    "official": {"quant_conv": "conv1", "post_quant_conv": "conv2"},
    "diffusers": {},
}


def external_name(name: str, naming: Naming, config: WanConfig) -> str:
    """The name that a naming scheme gives to the WanVAE parameter `name`."""
    stem, leaf = name.rsplit(".", 1)
    side, _, inside = stem.partition(".")
    layers = _LAYERS[naming]
    if not inside:
        return f"{_QUANT[naming].get(side, side)}.{leaf}"
    if middle := re.fullmatch(r"middle\.(\d)\.(\w+)", inside):
        return f"{side}.{_MIDDLE[naming][int(middle[1])]}.{layers.get(middle[2], middle[2])}.{leaf}"
    level = re.fullmatch(r"levels\.(\d+)\.(?:blocks\.(\d+)\.)?(.+)", inside)
    if level is None:
        return f"{side}.{_ENDS[naming].get(inside, inside)}.{leaf}"
    i, j, layer = level.groups()
    num_blocks = config.num_res_blocks + (side == "decoder")
    index = num_blocks if j is None else int(j)  # the resampling step comes after a level's blocks
    flat = int(i) * (num_blocks + 1) + index
    if naming == "official":
        group = "downsamples" if side == "encoder" else "upsamples"
        where = f"{group}.{i}.{group}.{index}" if config.residual else f"{group}.{flat}"
    elif side == "encoder" and not config.residual:
        where = f"down_blocks.{flat}"
    else:
        group, sampler = ("down_blocks", "downsampler") if side == "encoder" else ("up_blocks", "upsampler")
        sampler = sampler if config.residual else "upsamplers.0"
        where = f"{group}.{i}.{sampler if j is None else f'resnets.{j}'}"
    return f"{side}.{where}.{layers.get(layer, layer)}.{leaf}"


def recognise(shapes: Shapes) -> tuple[Naming, WanConfig]:
    """Naming scheme and configuration of a checkpoint, from the names and shapes of its tensors.

    Raises ValueError, with one sentence, for tensors that make no whole Wan VAE.
    """
    naming = next((naming for naming, name in FIRST_DECODER_WEIGHT.items() if name in shapes), None)
    accepted = "a Wan 2.1 or 2.2 VAE, named as in Wan2.1_VAE.pth or as in diffusers' AutoencoderKLWan"
    if naming is None:
        some = ", ".join(map(printable, sorted(shapes)[:3]))
        raise ValueError(
            f"This is not a Wan VAE: its {len(shapes)} tensors are named {some or 'nothing'}...; "
            f"accepted is {accepted}."
        )
    try:
        config = _config(shapes, naming)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        lacks = f"no {error}" if isinstance(error, KeyError) else "tensors are missing, or of other shapes"
        raise ValueError(f"This Wan VAE is incomplete ({lacks}); accepted is {accepted}, whole.") from error
    return naming, config


class _EncoderLevels(NamedTuple):
    """What the weights of the encoder's levels tell about its configuration."""

    dims: list[int]  # width of each level
    num_res_blocks: int  # per level
    temporal_downsample: list[bool]  # per resampling step
    residual: bool


def _config(shapes: Shapes, naming: Naming) -> WanConfig:
    """The configuration of a VAE. Raises KeyError, IndexError or ZeroDivisionError for tensors that make none."""

    def shape(name: str) -> tuple[int, ...]:
        return shapes[external_name(name, naming, WanConfig())]  # for names that are the same in every member

    levels = _nested_levels(shapes, naming) or _flat_levels(shapes, naming)
    conv_in, gamma = shape("encoder.conv_in.weight"), shape("decoder.head.norm.gamma")
    conv_out, z_dim = shape("decoder.head.conv.weight"), shape("post_quant_conv.weight")[1]
    mean, std = {16: (MEAN_2_1, STD_2_1), 48: (MEAN_2_2, STD_2_2)}.get(
        z_dim, ((0.0,) * z_dim, (1.0,) * z_dim)
    )
    return replace(
        WanConfig(),
        base_dim=conv_in[0],
        decoder_base_dim=gamma[0] // (levels.dims[0] // conv_in[0]),
        dim_mult=tuple(dim // conv_in[0] for dim in levels.dims),
        num_res_blocks=levels.num_res_blocks,
        z_dim=z_dim,
        temporal_downsample=tuple(levels.temporal_downsample),
        residual=levels.residual,
        patch_size=round((conv_in[1] / 3) ** 0.5),
        output_patch=round((conv_out[0] / 3) ** 0.5),
        latents_mean=mean,
        latents_std=std,
    )


def _nested_levels(shapes: Shapes, naming: Naming) -> _EncoderLevels | None:
    """The encoder's levels in names that number level and block, as Wan 2.2's do; None for other names."""
    dims, num_res_blocks, temporal_downsample = [], 0, []
    if naming == "official":
        encoder, group, conv1 = "encoder.downsamples", "downsamples", "residual.2.weight"
    else:
        encoder, group, conv1 = "encoder.down_blocks", "resnets", "conv1.weight"
    if not _count(shapes, rf"{encoder}\.\d+\.{group}\.(\d+)\."):
        return None
    for i in range(_count(shapes, rf"{encoder}\.(\d+)\.")):
        num_blocks = _count(shapes, rf"{encoder}\.{i}\.{group}\.(\d+)\.{re.escape(conv1)}")
        num_res_blocks = num_res_blocks or num_blocks
        dims.append(shapes[f"{encoder}.{i}.{group}.0.{conv1}"][0])
        step = f"{encoder}.{i}." + (f"{group}.{num_blocks}" if naming == "official" else "downsampler")
        if f"{step}.resample.1.weight" in shapes:
            temporal_downsample.append(f"{step}.time_conv.weight" in shapes)
    return _EncoderLevels(dims, num_res_blocks, temporal_downsample, residual=True)


def _flat_levels(shapes: Shapes, naming: Naming) -> _EncoderLevels:
    """The encoder's levels in names that number blocks and resampling steps in one row, as Wan 2.1's do."""
    dims: list[int] = []
    num_res_blocks, temporal_downsample = 0, []
    if naming == "official":
        encoder, conv1 = "encoder.downsamples", "residual.2.weight"
    else:
        encoder, conv1 = "encoder.down_blocks", "conv1.weight"
    num_blocks = 0  # of this level so far
    for i in range(_count(shapes, rf"{encoder}\.(\d+)\.")):
        if f"{encoder}.{i}.resample.1.weight" in shapes:
            temporal_downsample.append(f"{encoder}.{i}.time_conv.weight" in shapes)
            num_res_blocks, num_blocks = num_res_blocks or num_blocks, 0
        else:
            width = shapes[f"{encoder}.{i}.{conv1}"][0]
            dims = dims if num_blocks else [*dims, width]
            num_blocks += 1
    return _EncoderLevels(dims, num_res_blocks, temporal_downsample, residual=False)


def _count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the pattern's only group matches among the names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})
