"""The names of the Wan VAE's weights in other programs' files: from and to the official and diffusers' names."""

from __future__ import annotations

import re
from typing import Literal, get_args

from wanvae_app.config import WanConfig

# A naming scheme: that of Wan2.1_VAE.pth and files derived from it, or that of diffusers' AutoencoderKLWan.
Naming = Literal["official", "diffusers"]

NAMINGS: tuple[Naming, ...] = get_args(Naming)
# The first weight of a decoder and of an encoder: a file of either names one of them.
FIRST_WEIGHTS: dict[Naming, tuple[str, str]] = {
    "official": ("decoder.conv1.weight", "encoder.conv1.weight"),
    "diffusers": ("decoder.conv_in.weight", "encoder.conv_in.weight"),
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
