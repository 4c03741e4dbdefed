"""Which member of the Wan VAE family a file holds, told by the names and shapes of its tensors alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from wanvae_app.config import MEAN_2_1, MEAN_2_2, STD_2_1, STD_2_2, WanConfig
from wanvae_app.formats.key_maps import FIRST_WEIGHTS, Naming, external_name
from wanvae_app.formats.untrusted_text import printable

Shapes = Mapping[str, tuple[int, ...]]  # by the names of a file's tensors

ACCEPTED = "a Wan 2.1 or 2.2 VAE, named as in Wan2.1_VAE.pth or as in diffusers' AutoencoderKLWan"
MAX_PATCH = 8  # pixels along a patch
MAX_LEVELS = 6
FIRST_CONV: dict[Naming, str] = {"official": "residual.2.weight", "diffusers": "conv1.weight"}  # of a block
STATISTICS = {16: (MEAN_2_1, STD_2_1), 48: (MEAN_2_2, STD_2_2)}  # of latents, by their channels


def recognise(shapes: Shapes) -> tuple[Naming, WanConfig]:
    """Naming scheme and configuration of a checkpoint, from the names and shapes of its tensors.

    Raises ValueError, with one sentence, for tensors that make no Wan VAE, encoder or decoder.
    """
    naming = next(
        (naming for naming, names in FIRST_WEIGHTS.items() if not shapes.keys().isdisjoint(names)), None
    )
    if naming is None:
        some = ", ".join(map(printable, sorted(shapes)[:3]))
        raise ValueError(
            f"This is not a Wan VAE: its {len(shapes)} tensors are named {some or 'nothing'}...; "
            f"accepted is {ACCEPTED}."
        )
    try:
        config = _config(shapes, naming)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        lacks = f"no {error}" if isinstance(error, KeyError) else "tensors are missing, or of other shapes"
        raise ValueError(f"This Wan VAE is incomplete ({lacks}); accepted is {ACCEPTED}, whole.") from error
    return naming, config


def check_sizes(config: WanConfig, name: str) -> None:
    """Raise ValueError for sizes that no VAE has: lying shapes could ask for a model of a million layers.

    `name` is that of the file.
    """
    impossible = {
        "levels": not 1 <= len(config.dim_mult) <= MAX_LEVELS,
        "resampling steps": len(config.temporal_downsample) != len(config.dim_mult) - 1,
        "blocks per level": not 1 <= config.num_res_blocks <= 8,
        "channels": not all(1 <= dim <= 8192 for dim in config.widths),
        "latent channels": not 1 <= config.z_dim <= 1024,
        "pixels per patch": not (1 <= config.patch_size <= 4 and 1 <= config.output_patch <= 8),
    }
    for what, is_impossible in impossible.items():
        if is_impossible:
            raise ValueError(f"{name} is no whole Wan VAE: its number of {what} is one that none has.")
    if config.residual and not _shortcuts_fit(config):
        raise ValueError(
            f"{name} is a Wan 2.2 VAE pruned to widths between which its shortcuts, which have no weights, cannot pass."
        )


class _Side(NamedTuple):
    """What the weights of an encoder or a decoder tell about its shape."""

    dims: tuple[int, ...]  # width before its first level, then after each level
    resampled_dims: tuple[int, ...]  # width after each resampling step
    num_blocks: int  # of its first level
    temporal: tuple[bool, ...]  # one per resampling step: whether it changes the number of frames
    residual: bool  # whether names number level and block, as Wan 2.2's do
    num_inputs: int  # channels
    num_outputs: int


def _config(shapes: Shapes, naming: Naming) -> WanConfig:
    """The configuration of a VAE. Raises KeyError, IndexError or ZeroDivisionError for tensors that make none."""
    has_encoder, has_decoder = (
        any(name.startswith(side) for name in shapes) for side in ("encoder.", "decoder.")
    )
    encoder = _read_side(shapes, naming, "encoder") if has_encoder else None
    decoder = _read_side(shapes, naming, "decoder") if has_decoder else None
    config = WanConfig(has_encoder=has_encoder, has_decoder=has_decoder)
    if encoder is not None:
        base, widths = encoder.dims[0], encoder.dims[1:]
        in_channels, patch_size = _pixel(encoder.num_inputs)
        config = replace(
            config,
            base_dim=base,
            decoder_base_dim=base,
            dim_mult=tuple(width // base for width in widths),
            num_res_blocks=encoder.num_blocks,
            temporal_downsample=encoder.temporal,
            residual=encoder.residual,
            z_dim=encoder.num_outputs // 2,
            in_channels=in_channels,
            out_channels=in_channels,
            patch_size=patch_size,
            output_patch=patch_size,
        )
        if encoder.dims != config.encoder_dims:
            config = replace(config, encoder_widths=encoder.dims)
    if decoder is not None:
        config = _with_decoder(config, decoder)
    mean, std = STATISTICS.get(config.z_dim, ((0.0,) * config.z_dim, (1.0,) * config.z_dim))
    return replace(config, latents_mean=mean, latents_std=std)


def _with_decoder(config: WanConfig, decoder: _Side) -> WanConfig:
    """The configuration with what the decoder tells. Without an encoder, the decoder tells all of it."""
    out_channels, output_patch = _pixel(decoder.num_outputs)
    if not config.has_encoder:
        last = decoder.dims[-1]
        config = replace(
            config,
            base_dim=last,
            dim_mult=tuple(width // last for width in decoder.dims[:0:-1]),
            num_res_blocks=decoder.num_blocks - 1,
            temporal_downsample=decoder.temporal[::-1],
            residual=decoder.residual,
            in_channels=out_channels,
            patch_size=output_patch if decoder.residual else 1,
        )
    config = replace(
        config,
        decoder_base_dim=decoder.dims[-1] // max(config.dim_mult[0], 1),
        z_dim=decoder.num_inputs,
        out_channels=out_channels,
        output_patch=output_patch,
    )
    if (len(decoder.dims), len(decoder.resampled_dims)) != (
        len(config.dim_mult) + 1,
        len(config.dim_mult) - 1,
    ):
        return config  # a level is missing: comparing the names will say which
    if decoder.dims != config.decoder_dims:
        config = replace(config, decoder_widths=decoder.dims)
    if decoder.resampled_dims != config.upsampled_dims:
        config = replace(config, upsampled_widths=decoder.resampled_dims)
    return config


def _read_side(shapes: Shapes, naming: Naming, side: str) -> _Side:
    """The shape of the encoder or decoder, which `side` names. Raises KeyError or IndexError if it is incomplete."""

    def shape(name: str) -> tuple[int, ...]:
        return shapes[external_name(f"{side}.{name}.weight", naming, WanConfig())]  # the same in every member

    levels, residual = _levels(shapes, naming, side)
    conv_in, conv_out = shape("conv_in"), shape("head.conv")
    dims, resampled, temporal = [conv_in[0]], [], []
    for level in levels:
        dims.append(shapes[f"{level.blocks[0]}.{FIRST_CONV[naming]}"][0])
        if level.step:
            resampled.append(shapes[f"{level.step}.resample.1.weight"][0])
            temporal.append(f"{level.step}.time_conv.weight" in shapes)
    num_blocks = len(levels[0].blocks)
    return _Side(
        tuple(dims), tuple(resampled), num_blocks, tuple(temporal), residual, conv_in[1], conv_out[0]
    )


class _LevelNames(NamedTuple):
    """How the names of a level's weights begin."""

    blocks: list[str]
    step: str  # to the next level; empty: there is none


def _levels(shapes: Shapes, naming: Naming, side: str) -> tuple[list[_LevelNames], bool]:
    """The levels of an encoder or decoder, and whether it is one of Wan 2.2."""
    if naming == "official":
        group = "downsamples" if side == "encoder" else "upsamples"
        outer, inner, steps = f"{side}.{group}", group, []
    else:
        outer, inner = f"{side}.{'down' if side == 'encoder' else 'up'}_blocks", "resnets"
        steps = ["downsampler"] if side == "encoder" else ["upsampler", "upsamplers.0"]
    if not _count(shapes, rf"{outer}\.\d+\.{inner}\.(\d+)\."):
        return _flat_levels(shapes, outer), False
    levels, residual = [], naming == "official" or side == "encoder"
    for i in range(min(_count(shapes, rf"{outer}\.(\d+)\."), MAX_LEVELS + 1)):
        num_entries = _count(shapes, rf"{outer}\.{i}\.{inner}\.(\d+)\.")
        entries = [f"{outer}.{i}.{inner}.{j}" for j in range(num_entries)]
        entries += [
            f"{outer}.{i}.{step}" for step in steps if f"{outer}.{i}.{step}.resample.1.weight" in shapes
        ]
        residual = residual or entries[-1:] == [f"{outer}.{i}.upsampler"]
        levels.append(_split_level(shapes, entries))
    return levels, residual


def _flat_levels(shapes: Shapes, outer: str) -> list[_LevelNames]:
    """The levels where names number blocks and steps in one row, as those of Wan 2.1 do."""
    levels, entries = [], []
    for i in range(_count(shapes, rf"{outer}\.(\d+)\.")):
        entries.append(f"{outer}.{i}")
        if f"{outer}.{i}.resample.1.weight" in shapes:
            levels.append(_split_level(shapes, entries))
            entries = []
    return [*levels, _split_level(shapes, entries)]


def _split_level(shapes: Shapes, entries: list[str]) -> _LevelNames:
    """Tell a level's blocks from the step that may follow them."""
    if entries and f"{entries[-1]}.resample.1.weight" in shapes:
        return _LevelNames(entries[:-1], entries[-1])
    return _LevelNames(entries, "")


def _pixel(num_channels: int) -> tuple[int, int]:
    """Channels of a pixel, 3 or 4, and pixels along a patch, of which `num_channels` channels are made."""
    for patch in range(1, MAX_PATCH + 1):
        if num_channels in (3 * patch**2, 4 * patch**2):
            return num_channels // patch**2, patch
    return 3, round((num_channels / 3) ** 0.5)


def _shortcuts_fit(config: WanConfig) -> bool:
    """Whether Wan 2.2's shortcuts, which average or repeat channels in groups, can pass between the widths."""
    steps = [4 * (1 + temporal) for temporal in config.temporal_downsample]  # pixels that become one
    pairs = zip(pairwise(config.encoder_dims), (*steps, 1), strict=True)
    down = all(before * pixels % after == 0 for (before, after), pixels in pairs)
    levels = zip(pairwise(config.decoder_dims), reversed(steps), strict=False)
    up = all(before % after == 0 and pixels % (before // after) == 0 for (before, after), pixels in levels)
    return (down or not config.has_encoder) and (up or not config.has_decoder)


def _count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the pattern's only group matches among the names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})
