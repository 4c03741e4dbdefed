"""Any Wan VAE checkpoint, recognised by its tensors, into a WanVAE: load_vae(source, dtype, device)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.formats.key_maps import external_name, recognise
from wanvae_app.formats.lazy_tensor import LazyTensor, first_line, plain
from wanvae_app.formats.source import locate
from wanvae_app.formats.tensor_file import stored_tensors
from wanvae_app.model.vae import WanVAE

# RMSNorm does not see the scale of what it normalises, so in float16, which ends at 65504, every activation
# before a norm is kept this much smaller, by weights that are exact at any power of two.
FP16_SCALE = 2.0**-6

MAX_CONFIG = 2**20  # bytes of a config.json
MAX_TENSORS = 2000  # Wan 2.2's VAE has 196; more may stand beside them in a file of several models


def load_vae(
    source: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> WanVAE:
    """The VAE in `source`: a file, a diffusers folder, or a Hugging Face id such as Wan-AI/Wan2.1-VAE.

    Official .pth, ComfyUI's, LightX2V's and diffusers' files are told apart by their tensors. Raises
    ValueError in one sentence for what is none of these.
    """
    path, vae, ours = _open(source)
    config = vae.config
    # Wide first: a weight may be beyond float16's range before it is rescaled.
    wide = torch.float32 if dtype == torch.float16 else dtype
    weights = {name: _weight(name, stored, config, path).to(device, wide) for name, stored in ours.items()}
    for name, weight in weights.items():
        # The extremes are not finite if anything is not; isfinite(weight).all() takes twenty times as long.
        if not all(extreme.isfinite() for extreme in weight.aminmax()):
            raise ValueError(
                f"{path.name} is damaged: its weights for {name} have values that are no numbers."
            )
    vae.load_state_dict(weights, assign=True)
    if dtype == torch.float16:
        rescale(vae, FP16_SCALE)
    vae.name = _describe(path, config)
    return vae.requires_grad_(False).eval().to(dtype).channels_last()


def check(source: str | Path) -> None:
    """Raise ValueError, in one sentence, if `source` is nothing that load_vae loads. Reads no weights."""
    _open(source)


def save_tensors(vae: WanVAE, style: str) -> dict[str, Tensor]:
    """The VAE's weights under the names, and in the shapes, of `style` ("official" or "diffusers")."""
    tensors = {}
    for name, tensor in vae.state_dict().items():
        if name.endswith("gamma"):
            tensor = tensor.view(-1, *(1,) * (2 if "middle.1" in name else 3))
        tensors[external_name(name, style, vae.config)] = tensor
    return tensors


@torch.no_grad()
def rescale(vae: WanVAE, scale: float) -> None:
    """Make all that a norm will see `scale` times what it was; the VAE's output stays the same."""
    inner = r"(encoder|decoder)\.(conv_in|levels|middle)\b"
    for name, parameter in vae.named_parameters():
        if re.match(inner, name) is None or name.endswith("gamma") or "to_qkv" in name:
            continue
        # These convolutions read what is scaled already, so only their bias lacks the factor.
        linear = "shortcut" in name or "resample" in name
        if not linear or name.endswith("bias"):
            parameter.mul_(scale)


def _open(source: str | Path) -> tuple[Path, WanVAE, dict[str, LazyTensor]]:
    """The file of a source, its VAE without weights, and the weights under our names, not read yet."""
    path = locate(str(source))
    tensors = _list(path)
    style, config = recognise({name: tensor.shape for name, tensor in tensors.items()})
    _check_sizes(config, path)
    config = _with_statistics(config, path.parent / "config.json")
    with torch.device("meta"):
        vae = WanVAE(config)
    return path, vae, _match(vae, tensors, style, path)


def _weight(name: str, stored: LazyTensor, config: WanConfig, path: Path) -> Tensor:
    """One of our parameters, from the file's tensor for it."""
    try:
        tensor = stored.read()
    except (SafetensorError, RuntimeError, ValueError, MemoryError, OSError) as error:
        raise ValueError(
            f"{path.name}: the weights for {name} cannot be read: {first_line(error)}."
        ) from error
    if name.endswith("gamma"):
        return tensor.flatten()
    if name.startswith("decoder.head.conv") and config.output_patch != config.patch_size:
        # The 2x-upscaling decoders end in a pixel shuffle, where rows change slower than columns.
        patch = config.output_patch
        return tensor.unflatten(0, (-1, patch, patch)).transpose(1, 2).flatten(0, 2)
    return tensor


def _list(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors or PyTorch file, whatever its name says, without what stands before all names."""
    try:
        found = stored_tensors(path)
    except TypeError as error:
        raise ValueError(f"{path.name} is not a .safetensors or .pth file, by its content.") from error
    marks = tuple(f"decoder.{mark}.weight" for mark in ("conv1", "conv_in"))
    # Wrapped in a larger model, or in a dictionary: vae.decoder..., state_dict.model.decoder...
    wrapped = [name for name in found if name.endswith(marks)]
    prefix = min(wrapped, key=len).rpartition("decoder.")[0] if wrapped else ""
    tensors = {name.removeprefix(prefix): part for name, part in found.items() if name.startswith(prefix)}
    if len(tensors) > MAX_TENSORS:
        raise ValueError(
            f"{path.name} is not a Wan VAE: it holds {len(tensors)} tensors, where these have some hundred."
        )
    return tensors


def _check_sizes(config: WanConfig, path: Path) -> None:
    """Refuse what no VAE has: a few lying shapes would make a model of a million layers."""
    dims = (*config.encoder_dims, *config.decoder_dims)
    odd = {
        "levels": not 1 <= len(config.dim_mult) <= 6,
        "resampling steps": len(config.temporal_downsample) != len(config.dim_mult) - 1,
        "blocks per level": not 1 <= config.num_res_blocks <= 8,
        "channels": not all(1 <= dim <= 8192 for dim in dims),
        "latent channels": not 1 <= config.z_dim <= 1024,
        "pixels per patch": not (1 <= config.patch_size <= 4 and 1 <= config.output_patch <= 8),
    }
    if any(odd.values()):
        what = next(what for what, is_odd in odd.items() if is_odd)
        raise ValueError(f"{path.name} is no whole Wan VAE: its number of {what} is one that none has.")


def _with_statistics(config: WanConfig, path: Path) -> WanConfig:
    """The latents' mean and std from a diffusers config.json beside the weights, where there is one."""
    if not path.is_file():
        return config
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f"it has more than {MAX_CONFIG} bytes")
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {first_line(error)}.") from error
    if not isinstance(known, dict):
        raise ValueError(f"{path} is not the configuration of a VAE: it holds no names.")
    mean, std = known.get("latents_mean"), known.get("latents_std")
    if not mean or not std:
        return config
    for values, what, least in ((mean, "means", -math.inf), (std, "standard deviations", 0.0)):
        if not isinstance(values, list) or len(values) != config.z_dim:
            given = len(values) if isinstance(values, list) else "no list of"
            raise ValueError(
                f"{path} has {given} latent {what} for weights with {config.z_dim} latent channels."
            )
        if not all(type(value) in (int, float) and least < value < 1e6 for value in values):
            raise ValueError(f"{path} has latent {what} that are not possible numbers.")
    return replace(config, latents_mean=tuple(mean), latents_std=tuple(std))


def _match(vae: WanVAE, tensors: dict[str, LazyTensor], style: str, path: Path) -> dict[str, LazyTensor]:
    """The file's tensors under our names; ValueError names the first that is amiss."""
    ours: dict[str, LazyTensor] = {}
    for name, parameter in vae.state_dict().items():
        theirs = external_name(name, style, vae.config)
        tensor = tensors.get(theirs)
        if tensor is None:
            raise ValueError(f"{path.name} lacks {theirs}: it looks like a Wan VAE, but an incomplete one.")
        shape = tensor.shape
        if name.endswith("gamma"):  # [C, 1, 1] or [C, 1, 1, 1]
            shape = (math.prod(shape),)
        if shape != tuple(parameter.shape):
            raise ValueError(
                f"{path.name}: {theirs} has shape {plain(str(tensor.shape))} where this Wan VAE needs "
                f"{tuple(parameter.shape)}."
            )
        if not tensor.floating:
            raise ValueError(f"{path.name}: {theirs} is of type {tensor.dtype}, not floating point.")
        ours[name] = tensor
    extra = {name for name in tensors if name.startswith(("encoder.", "decoder."))} - {
        external_name(name, style, vae.config) for name in ours
    }
    if extra:
        raise ValueError(
            f"{path.name} has {len(extra)} tensors that no known Wan VAE has, such as {plain(min(extra))}."
        )
    return ours


def _describe(path: Path, config: WanConfig) -> str:
    family = "Wan 2.2" if config.residual else "Wan 2.1"
    name = path.parent.name if path.stem == "diffusion_pytorch_model" else path.stem
    return f"{name} ({family} VAE, width {config.base_dim})"
