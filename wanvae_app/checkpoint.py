"""Any Wan VAE checkpoint, recognised by its tensors, into a WanVAE: load_vae(source, dtype, device)."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.names import external_name, recognise
from wanvae_app.vae import WanVAE

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# RMSNorm does not see the scale of what it normalises, so in float16, which ends at 65504, every activation
# before a norm is kept this much smaller, by weights that are exact at any power of two.
FP16_SCALE = 2.0**-6

_WRAPPERS = ("state_dict", "model", "module", "vae")
_PREFIXES = ("vae.", "first_stage_model.", "module.", "model.")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" or a name in DTYPES, for a device: bf16 where it is native, else fp16 on GPUs, fp32 on CPUs."""
    if name != "auto":
        if name not in DTYPES:
            raise ValueError(f"Unknown dtype {name!r}; choose auto, {', '.join(DTYPES)}.")
        return DTYPES[name]
    if device.type == "cuda":
        # sm_80 is the first whose matrix units take bf16; older GPUs only emulate it.
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32


def _cpu_multiplies_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None


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
    vae.load_state_dict({name: tensor.to(device, wide) for name, tensor in ours.items()}, assign=True)
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


def _open(source: str | Path) -> tuple[Path, WanVAE, dict[str, Tensor]]:
    """The file of a source, its VAE without weights, and the weights under our names."""
    path = _locate(str(source))
    tensors = _read(path)
    style, config = recognise({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    config = _with_statistics(config, path.parent / "config.json")
    with torch.device("meta"):
        vae = WanVAE(config)
    ours = _match(vae, tensors, style, path)
    if config.output_patch != config.patch_size:
        # The 2x-upscaling decoders end in a pixel shuffle, where rows change slower than columns.
        for name in ("decoder.head.conv.weight", "decoder.head.conv.bias"):
            patch = config.output_patch
            ours[name] = ours[name].unflatten(0, (-1, patch, patch)).transpose(1, 2).flatten(0, 2)
    return path, vae, ours


def _locate(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        for folder in (path, path / "vae"):
            files = [f for f in sorted(folder.iterdir()) if f.suffix in (".safetensors", ".pth", ".pt")] if (
                folder.is_dir()) else []  # fmt: skip
            if len(files) == 1:
                return files[0]
            if files:
                raise ValueError(
                    f"{folder} holds {len(files)} weight files; name one of them, such as {files[0]}."
                )
        raise ValueError(
            f"{path} holds no weights; a diffusers folder has diffusion_pytorch_model.safetensors."
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return _locate(_download(source))
    raise ValueError(
        f"There is no file or folder {source}; give one, or a Hugging Face id such as Wan-AI/NAME."
    )


def _download(repository: str) -> str:
    from huggingface_hub import snapshot_download  # slow to import, and only an id needs it
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from requests.exceptions import RequestException

    weights = ["vae/*.safetensors", "vae/config.json", "config.json", "diffusion_pytorch_model.safetensors"]
    try:
        return snapshot_download(repository, allow_patterns=[*weights, "*VAE*.pth", "*vae*.safetensors"])
    except (LocalEntryNotFoundError, HfHubHTTPError, RequestException, OSError) as error:
        raise ValueError(
            f"{repository} could not be had from Hugging Face ({type(error).__name__}); download its "
            "vae folder (config.json, diffusion_pytorch_model.safetensors) or Wan2.1_VAE.pth, and name it."
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file, whatever its name says; nothing in it is executed."""
    with path.open("rb") as file:
        head = file.read(16)
    try:
        # A safetensors file begins with its header's length and the header's opening brace.
        tensors = (
            load_file(path) if head[8:9] == b"{" else torch.load(path, "cpu", weights_only=True, mmap=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path.name} is not a readable .safetensors or .pth file: {reason}") from error
    for wrapper in _WRAPPERS:
        if isinstance(tensors, dict) and isinstance(tensors.get(wrapper), dict):
            tensors = tensors[wrapper]
    if not isinstance(tensors, dict):
        raise ValueError(f"{path.name} holds a {type(tensors).__name__}, not a dictionary of named weights.")
    tensors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    for prefix in _PREFIXES:
        if any(name.startswith(f"{prefix}decoder.") for name in tensors):
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return tensors


def _with_statistics(config: WanConfig, path: Path) -> WanConfig:
    """The latents' mean and std from a diffusers config.json beside the weights, where there is one."""
    if not path.is_file():
        return config
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    mean, std = known.get("latents_mean"), known.get("latents_std")
    if not mean or not std:
        return config
    if len(mean) != config.z_dim or len(std) != config.z_dim:
        raise ValueError(
            f"{path} has {len(mean)} latent means for weights with {config.z_dim} latent channels."
        )
    return replace(config, latents_mean=tuple(mean), latents_std=tuple(std))


def _match(vae: WanVAE, tensors: dict[str, Tensor], style: str, path: Path) -> dict[str, Tensor]:
    """The file's tensors under our names and shapes; ValueError names the first that is amiss."""
    ours: dict[str, Tensor] = {}
    for name, parameter in vae.state_dict().items():
        theirs = external_name(name, style, vae.config)
        tensor = tensors.get(theirs)
        if tensor is None:
            raise ValueError(f"{path.name} lacks {theirs}: it looks like a Wan VAE, but an incomplete one.")
        if name.endswith("gamma"):
            tensor = tensor.flatten()
        if tensor.shape != parameter.shape:
            raise ValueError(
                f"{path.name}: {theirs} has shape {tuple(tensor.shape)} where this Wan VAE needs "
                f"{tuple(parameter.shape)}."
            )
        ours[name] = tensor
    extra = {name for name in tensors if name.startswith(("encoder.", "decoder."))} - {
        external_name(name, style, vae.config) for name in ours
    }
    if extra:
        raise ValueError(
            f"{path.name} has {len(extra)} tensors that no known Wan VAE has, such as {min(extra)}."
        )
    return ours


def _describe(path: Path, config: WanConfig) -> str:
    family = "Wan 2.2" if config.residual else "Wan 2.1"
    name = path.parent.name if path.stem == "diffusion_pytorch_model" else path.stem
    return f"{name} ({family} VAE, width {config.base_dim})"
