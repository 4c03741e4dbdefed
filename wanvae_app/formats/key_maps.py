"""How other programs name the Wan VAE's weights: official and diffusers names, from and to ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from wanvae_app.config import MEAN_2_1, MEAN_2_2, STD_2_1, STD_2_2, WanConfig

STYLES = ("official", "diffusers")

# Parts of a residual block or a resampling step; what is not listed has the same name everywhere.
_PARTS = {
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
_ENDS = {
    "official": {"conv_in": "conv1", "head.norm": "head.0", "head.conv": "head.2"},
    "diffusers": {"head.norm": "norm_out", "head.conv": "conv_out"},
}
_MIDDLE = {
    "official": ("middle.0", "middle.1", "middle.2"),
    "diffusers": ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
}
_QUANT = {"official": {"quant_conv": "conv1", "post_quant_conv": "conv2"}, "diffusers": {}}


def external_name(name: str, style: str, config: WanConfig) -> str:
    """The name that `style` gives to one of our parameters."""
    stem, leaf = name.rsplit(".", 1)
    side, _, inside = stem.partition(".")
    parts = _PARTS[style]
    if not inside:
        return f"{_QUANT[style].get(side, side)}.{leaf}"
    if middle := re.fullmatch(r"middle\.(\d)\.(\w+)", inside):
        return f"{side}.{_MIDDLE[style][int(middle[1])]}.{parts.get(middle[2], middle[2])}.{leaf}"
    level = re.fullmatch(r"levels\.(\d+)\.(?:blocks\.(\d+)\.)?(.+)", inside)
    if level is None:
        return f"{side}.{_ENDS[style].get(inside, inside)}.{leaf}"
    i, j, part = level.groups()
    num_blocks = config.num_res_blocks + (side == "decoder")
    index = num_blocks if j is None else int(j)  # the resampling step comes after a level's blocks
    flat = int(i) * (num_blocks + 1) + index
    if style == "official":
        group = "downsamples" if side == "encoder" else "upsamples"
        where = f"{group}.{i}.{group}.{index}" if config.residual else f"{group}.{flat}"
    elif side == "encoder" and not config.residual:
        where = f"down_blocks.{flat}"
    else:
        group, sampler = ("down_blocks", "downsampler") if side == "encoder" else ("up_blocks", "upsampler")
        sampler = sampler if config.residual else "upsamplers.0"
        where = f"{group}.{i}.{sampler if j is None else f'resnets.{j}'}"
    return f"{side}.{where}.{parts.get(part, part)}.{leaf}"


def recognise(shapes: dict[str, tuple[int, ...]]) -> tuple[str, WanConfig]:
    """Style and configuration of a checkpoint, from its tensors' names and shapes alone.

    Raises ValueError, in one sentence, for anything that is not a whole Wan VAE.
    """
    marks = {"official": "decoder.conv1.weight", "diffusers": "decoder.conv_in.weight"}
    style = next((style for style, mark in marks.items() if mark in shapes), None)
    accepted = "a Wan 2.1 or 2.2 VAE, named as in Wan2.1_VAE.pth or as in diffusers' AutoencoderKLWan"
    if style is None:
        some = ", ".join(sorted(shapes)[:3])
        raise ValueError(
            f"This is not a Wan VAE: its {len(shapes)} tensors are named {some or 'nothing'}...; "
            f"accepted is {accepted}."
        )
    try:
        config = _config(shapes, style)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        lacks = f"no {error}" if isinstance(error, KeyError) else "tensors are missing, or of other shapes"
        raise ValueError(f"This Wan VAE is incomplete ({lacks}); accepted is {accepted}, whole.") from error
    return style, config


def _config(shapes: dict[str, tuple[int, ...]], style: str) -> WanConfig:
    official = style == "official"
    inner = r"(?:downsamples|resnets)\.(\d+)\."
    encoder = "encoder.downsamples" if official else "encoder.down_blocks"
    residual = any(re.match(rf"{encoder}\.\d+\.{inner}", name) for name in shapes)
    conv1 = "residual.2.weight" if official else "conv1.weight"

    # Walk the encoder: widths after each level, blocks per level, which steps halve the frames.
    dims, num_blocks, temporal = [], 0, []
    if residual:
        for i in range(_count(shapes, rf"{encoder}\.(\d+)\.")):
            blocks = _count(shapes, rf"{encoder}\.{i}\.{inner}{re.escape(conv1)}")
            first = f"{encoder}.{i}.{'downsamples' if official else 'resnets'}.0.{conv1}"
            num_blocks = num_blocks or blocks
            dims.append(shapes[first][0])
            step = f"{encoder}.{i}.downsamples.{blocks}" if official else f"{encoder}.{i}.downsampler"
            if f"{step}.resample.1.weight" in shapes:
                temporal.append(f"{step}.time_conv.weight" in shapes)
    else:
        blocks = 0
        for i in range(_count(shapes, rf"{encoder}\.(\d+)\.")):
            if f"{encoder}.{i}.resample.1.weight" in shapes:
                temporal.append(f"{encoder}.{i}.time_conv.weight" in shapes)
                num_blocks, blocks = num_blocks or blocks, 0
            else:
                width = shapes[f"{encoder}.{i}.{conv1}"][0]
                dims = dims if blocks else [*dims, width]
                blocks += 1

    conv_in = shapes["encoder.conv1.weight" if official else "encoder.conv_in.weight"]
    gamma = shapes["decoder.head.0.gamma" if official else "decoder.norm_out.gamma"]
    conv_out = shapes["decoder.head.2.weight" if official else "decoder.conv_out.weight"]
    z_dim = shapes["conv2.weight" if official else "post_quant_conv.weight"][1]
    mean, std = {16: (MEAN_2_1, STD_2_1), 48: (MEAN_2_2, STD_2_2)}.get(
        z_dim, ((0.0,) * z_dim, (1.0,) * z_dim)
    )
    return replace(
        WanConfig(),
        base_dim=conv_in[0],
        decoder_base_dim=gamma[0] // (dims[0] // conv_in[0]),
        dim_mult=tuple(dim // conv_in[0] for dim in dims),
        num_res_blocks=num_blocks,
        z_dim=z_dim,
        temporal_downsample=tuple(temporal),
        residual=residual,
        patch_size=round((conv_in[1] / 3) ** 0.5),
        output_patch=round((conv_out[0] / 3) ** 0.5),
        latents_mean=mean,
        latents_std=std,
    )


def _count(shapes: Iterable[str], pattern: str) -> int:
    """How many different numbers the pattern's last group takes among the names."""
    return len({match.groups()[-1] for name in shapes if (match := re.match(pattern, name))})
