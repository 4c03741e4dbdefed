"""Checkpoints of any Wan VAE, recognised by their tensors: load_vae(source, dtype, device)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.fast.choice import build_vae
from wanvae_app.formats.checkpoint_config import check_sizes, recognise
from wanvae_app.formats.checkpoint_parts import VaeTensors, select_vae
from wanvae_app.formats.gguf_file import gguf_tensors, is_gguf
from wanvae_app.formats.key_maps import Naming, external_name
from wanvae_app.formats.latent_statistics import with_statistics
from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.tensor_file import lazy_tensors
from wanvae_app.formats.untrusted_text import first_line, printable
from wanvae_app.formats.weights_file import WeightsFile, all_pieces, find_weights_file
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.model.vae import WanVAE

# float16 ends at 65504, so there every activation that a norm reads is multiplied by this factor. A norm's output
# does not depend on the scale of its input, and a power of two keeps the weights exact.
FP16_SCALE = 2.0**-6

Source = str | Path | WeightsFile  # a text or path is as `find_weights_file` takes it


class _Checkpoint(NamedTuple):
    """A VAE's file, as its headers describe it."""

    path: Path
    config: WanConfig
    tensors: dict[str, LazyTensor]  # under the VAE's names
    notes: tuple[str, ...]


def load_vae(
    source: Source,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    path: CodePath | None = None,
    *,
    on_tensor: Callable[[], object] = lambda: None,
) -> WanVAE:
    """The VAE in `source`: a file, a diffusers folder, or a Hugging Face id such as Wan-AI/Wan2.1-VAE.

    Reads the official .pth, and the files of ComfyUI, LightX2V and diffusers, which it tells apart by their tensors.
    A file may hold an encoder or a decoder alone. `notes` of the VAE say which of several was chosen.
    `path` is the code path that ranks agreed on; see `build_vae`. The VAE is in evaluation mode, without gradients, in
    channels-last layout. `on_tensor` is called after each tensor that is read. Raises ValueError, with one sentence,
    for a source that is none of these.
    """
    device = torch.device(device)
    checkpoint = _open(source)
    vae = _build(checkpoint, dtype, device, path)
    file = checkpoint.path
    load_dtype = loading_dtype(dtype)
    weights = {}
    for name, tensor in checkpoint.tensors.items():
        weight = _read_weight(name, tensor, checkpoint.config, file).to(device, load_dtype)
        # NaN and infinity show in the extremes; isfinite(weight).all() takes twenty times as long.
        if not all(extreme.isfinite() for extreme in weight.aminmax()):
            raise ValueError(
                f"{file.name} is damaged: its weights for {name} have values that are no numbers."
            )
        weights[name] = weight
        on_tensor()
    vae.load_state_dict(weights, assign=True)
    del weight, weights  # else both dtypes of all weights would be in memory at once
    if dtype == torch.float16:
        rescale(vae, FP16_SCALE)
    return vae.requires_grad_(False).eval().to(dtype).channels_last()


def loading_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that weights have on their device while they are loaded for `dtype`."""
    # A weight can exceed float16's range until it is rescaled.
    return torch.float32 if dtype == torch.float16 else dtype


def describe_vae(
    source: Source,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    path: CodePath | None = None,
) -> WanVAE:
    """What `load_vae` would return, on "meta": all but the values of its weights. Reads the file's headers alone.

    Raises ValueError, with one sentence, if load_vae would refuse the source for its headers.
    """
    vae = _build(_open(source), dtype, torch.device(device), path)
    return vae.requires_grad_(False).eval().to(dtype)


def check(source: Source) -> None:
    """Raise ValueError, with one sentence, if load_vae would refuse `source` for its headers. Reads no weights."""
    _open(source)


def external_state_dict(vae: WanVAE, naming: Naming) -> dict[str, Tensor]:
    """The VAE's weights with the names and shapes of the scheme "official" or "diffusers"."""
    tensors = {}
    for name, tensor in vae.state_dict().items():
        if name.endswith("gamma"):  # [C]; of the attention [C, 1, 1], of the rest [C, 1, 1, 1]
            tensor = tensor.view(-1, *(1,) * (2 if "middle.1" in name else 3))
        tensors[external_name(name, naming, vae.config)] = tensor
    return tensors


@torch.no_grad()
def rescale(vae: WanVAE, scale: float) -> None:
    """Multiply every activation that a norm reads by `scale`, through the weights; the VAE's output stays the same."""
    inner = r"(encoder|decoder)\.(conv_in|levels|middle)\b"
    for name, parameter in vae.named_parameters():
        if re.match(inner, name) is None or name.endswith("gamma") or "to_qkv" in name:
            continue
        # These convolutions read activations that are scaled already, so only their bias needs the factor.
        reads_scaled = "shortcut" in name or "resample" in name
        if not reads_scaled or name.endswith("bias"):
            parameter.mul_(scale)


def _open(source: Source) -> _Checkpoint:
    """Read the headers of a source's file, or of its pieces."""
    file = source if isinstance(source, WeightsFile) else find_weights_file(str(source))
    path = file.path
    tensors, notes = _list_tensors(file)
    naming, config = recognise({name: tensor.shape for name, tensor in tensors.items()})
    check_sizes(config, path.name)
    config = with_statistics(config, path.parent / "config.json")
    with torch.device("meta"):
        vae = WanVAE(config)
    if config.lack:
        notes = (*notes, f"{path.name} {config.lack}.")
    return _Checkpoint(path, config, _match_names(vae, tensors, naming, path), notes)


def _build(
    checkpoint: _Checkpoint, dtype: torch.dtype, device: torch.device, path: CodePath | None
) -> WanVAE:
    """The VAE of a file on "meta", made for `dtype`, `device` and a code path."""
    config = checkpoint.config
    with torch.device("meta"):
        vae = build_vae(config, device, dtype, _display_name(checkpoint.path, config), path)
    vae.notes = checkpoint.notes
    return vae


def _read_weight(name: str, tensor: LazyTensor, config: WanConfig, path: Path) -> Tensor:
    """The VAE's parameter `name`, read from the file and brought to the VAE's shape."""
    try:
        weight = tensor.read()
    except (SafetensorError, RuntimeError, ValueError, MemoryError, OSError) as error:
        raise ValueError(
            f"{path.name}: the weights for {name} cannot be read: {first_line(error)}."
        ) from error
    if name.endswith("gamma"):
        return weight.flatten()
    if name.startswith("decoder.head.conv") and config.output_patch != config.patch_size:
        # 2x-upscaling decoders end in a pixel shuffle: output channels (C, row, column). WanVAE's: (C, column, row).
        sizes = (-1, config.output_patch, config.output_patch, *weight.shape[1:])
        return weight.reshape(sizes).transpose(1, 2).flatten(0, 2)
    return weight


def _list_tensors(file: WeightsFile) -> VaeTensors:
    """The VAE's tensors in a safetensors, PyTorch or GGUF file, or in all of its pieces."""
    found: dict[str, LazyTensor] = {}
    for path in all_pieces(file.path):
        try:
            found |= gguf_tensors(path) if is_gguf(path) else lazy_tensors(path)
        except TypeError as error:
            raise ValueError(
                f"{path.name} is not a .safetensors, .pth or .gguf file, by its content."
            ) from error
    return select_vae(found, file)


def _match_names(
    vae: WanVAE, tensors: dict[str, LazyTensor], naming: Naming, path: Path
) -> dict[str, LazyTensor]:
    """The file's tensors under the VAE's names. ValueError names the first that is missing or does not fit."""
    matched: dict[str, LazyTensor] = {}
    unmatched = {name for name in tensors if name.startswith(("encoder.", "decoder."))}
    for name, parameter in vae.state_dict().items():
        external = external_name(name, naming, vae.config)
        tensor = tensors.get(external)
        if tensor is None:
            raise ValueError(f"{path.name} lacks {external}: it looks like a Wan VAE, but an incomplete one.")
        shape = (math.prod(tensor.shape),) if name.endswith("gamma") else tensor.shape  # as _read_weight does
        if shape != tuple(parameter.shape):
            raise ValueError(
                f"{path.name}: {external} has shape {printable(str(tensor.shape))} where this Wan VAE needs "
                f"{tuple(parameter.shape)}."
            )
        if not tensor.is_floating_point:
            raise ValueError(f"{path.name}: {external} is of type {tensor.dtype}, not floating point.")
        matched[name] = tensor
        unmatched.discard(external)
    if unmatched:
        raise ValueError(
            f"{path.name} has {len(unmatched)} tensors that no known Wan VAE has, such as "
            f"{printable(min(unmatched))}."
        )
    return matched


def family_and_width(config: WanConfig) -> str:
    """What kind of VAE this is, such as "Wan 2.1 VAE, width 96" or "Wan 2.1 decoder, width 96, upscaling 2x"."""
    part = (
        "VAE" if config.has_encoder and config.has_decoder else "encoder" if config.has_encoder else "decoder"
    )
    width = config.encoder_dims[0] if config.has_encoder else config.decoder_dims[-1]
    upscaling = config.output_factor // config.spatial_factor if config.has_decoder else 1
    extras = ", with alpha" * (config.out_channels == 4) + f", upscaling {upscaling}x" * (upscaling > 1)
    return f"{'Wan 2.2' if config.residual else 'Wan 2.1'} {part}, width {width}{extras}"


def _display_name(path: Path, config: WanConfig) -> str:
    """The VAE's name on the page: that of its file or diffusers folder, its family and its width."""
    name = path.parent.name if path.stem == "diffusion_pytorch_model" else path.stem
    return f"{name} ({family_and_width(config)})"
