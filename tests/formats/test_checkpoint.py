"""Checkpoints are recognised by their tensors; files without a whole Wan VAE are refused in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.torch_files import PrintsWhenUnpickled
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.device import choose_dtype
from wanvae_app.formats.checkpoint import external_state_dict, load_vae, rescale
from wanvae_app.formats.checkpoint_config import recognise
from wanvae_app.formats.key_maps import NAMINGS, Naming, external_name
from wanvae_app.formats.weights_file import find_weights_file
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE

NARROW_2_1 = replace(PRESETS["wan2.1"], base_dim=4, decoder_base_dim=4)
NARROW_2_2 = replace(PRESETS["wan2.2"], base_dim=4, decoder_base_dim=8)
CONFIGS = {
    "2.1": NARROW_2_1,
    "2.2": NARROW_2_2,
    "lightvae": replace(NARROW_2_1, base_dim=6, decoder_base_dim=6),
    "2x upscale": replace(NARROW_2_1, output_patch=2),
    "one block": replace(NARROW_2_1, num_res_blocks=1, dim_mult=(1, 2), temporal_downsample=(True,)),
}


def random_vae(config: WanConfig) -> WanVAE:
    torch.manual_seed(5)
    return WanVAE(config).requires_grad_(False)


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def save(path: Path, tensors: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_comes_back(tmp_path: Path, naming: Naming, kind: str, suffix: str) -> None:
    vae = random_vae(CONFIGS[kind])
    tensors = external_state_dict(vae, naming)
    assert len(tensors) == len(vae.state_dict()), "no two parameters share a name"
    assert recognise(shapes(tensors)) == (naming, vae.config)
    # The file's name plays no part.
    loaded = load_vae(save(tmp_path / f"anything{suffix}", tensors))
    assert loaded.config == vae.config
    for name, tensor in loaded.state_dict().items():
        if kind != "2x upscale" or "decoder.head.conv" not in name:
            assert torch.equal(tensor, vae.state_dict()[name]), name


def test_known_names() -> None:
    """The names are those of the published files."""
    names: dict[tuple[Naming, str], dict[str, str]] = {
        ("official", "2.1"): {
            "encoder.levels.1.blocks.0.shortcut.weight": "encoder.downsamples.3.shortcut.weight",
            "encoder.levels.1.resample.time_conv.bias": "encoder.downsamples.5.time_conv.bias",
            "decoder.levels.0.resample.conv.weight": "decoder.upsamples.3.resample.1.weight",
            "decoder.levels.3.blocks.2.norm2.gamma": "decoder.upsamples.14.residual.3.gamma",
            "decoder.middle.1.to_qkv.weight": "decoder.middle.1.to_qkv.weight",
            "encoder.middle.0.conv2.bias": "encoder.middle.0.residual.6.bias",
            "encoder.head.conv.weight": "encoder.head.2.weight",
            "quant_conv.weight": "conv1.weight",
            "encoder.conv_in.weight": "encoder.conv1.weight",
        },
        ("official", "2.2"): {
            "encoder.levels.1.resample.conv.weight": "encoder.downsamples.1.downsamples.2.resample.1.weight",
            "decoder.levels.0.resample.time_conv.weight": "decoder.upsamples.0.upsamples.3.time_conv.weight",
            "decoder.levels.3.blocks.0.conv1.weight": "decoder.upsamples.3.upsamples.0.residual.2.weight",
        },
        ("diffusers", "2.1"): {
            "encoder.levels.1.blocks.0.shortcut.weight": "encoder.down_blocks.3.conv_shortcut.weight",
            "encoder.levels.0.resample.conv.bias": "encoder.down_blocks.2.resample.1.bias",
            "decoder.levels.0.resample.time_conv.weight": "decoder.up_blocks.0.upsamplers.0.time_conv.weight",
            "encoder.middle.2.conv1.weight": "encoder.mid_block.resnets.1.conv1.weight",
            "decoder.middle.1.norm.gamma": "decoder.mid_block.attentions.0.norm.gamma",
            "decoder.head.norm.gamma": "decoder.norm_out.gamma",
        },
        ("diffusers", "2.2"): {
            "encoder.levels.1.resample.conv.weight": "encoder.down_blocks.1.downsampler.resample.1.weight",
            "decoder.levels.2.resample.conv.weight": "decoder.up_blocks.2.upsampler.resample.1.weight",
            "encoder.levels.3.blocks.1.norm1.gamma": "encoder.down_blocks.3.resnets.1.norm1.gamma",
        },
    }
    for (naming, kind), table in names.items():
        for name, external in table.items():
            assert external_name(name, naming, CONFIGS[kind]) == external


def test_wrapped_and_prefixed(tmp_path: Path) -> None:
    tensors = external_state_dict(random_vae(NARROW_2_1), "official")
    wrapped: dict[str, Any] = {"state_dict": {f"model.{name}": tensor for name, tensor in tensors.items()}}
    wrapped |= {"epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "lr": 1e-4}}
    assert load_vae(save(tmp_path / "a.pth", wrapped)).config == NARROW_2_1


def test_pixel_shuffle_order(tmp_path: Path) -> None:
    """An upscaling decoder unfolds its channels as torch.pixel_shuffle does."""
    vae = random_vae(CONFIGS["2x upscale"]).double()
    loaded = load_vae(save(tmp_path / "up.safetensors", external_state_dict(vae, "official")), torch.float64)
    z = torch.randn(1, 16, 2, 3, 2, dtype=torch.float64)
    folded = vae.decoder(vae.post_quant_conv(z, ClipState()), ClipState())  # 1 12 T H W
    expected = torch.pixel_shuffle(folded[0].transpose(0, 1), 2).transpose(0, 1)[None].clamp(-1, 1)
    assert torch.allclose(loaded.decode(z, ClipState()), expected, atol=1e-12)


def test_statistics_beside_the_weights(tmp_path: Path) -> None:
    path = save(tmp_path / "vae.safetensors", external_state_dict(random_vae(NARROW_2_1), "diffusers"))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"latents_mean": [0.5] * 16, "latents_std": [2.0] * 16}))
    assert load_vae(path).config.latents_std == (2.0,) * 16
    for wrong, expected in (
        ({"latents_mean": [0.5] * 4, "latents_std": [2.0] * 4}, "4 latent means for weights with 16"),
        (
            {"latents_mean": [0.5] * 16, "latents_std": [0.0] * 16},
            "standard deviations that are not possible",
        ),
        ({"latents_mean": ["0.5"] * 16, "latents_std": [2.0] * 16}, "means that are not possible"),
        ({"latents_mean": 3, "latents_std": 4}, "no list of latent means"),
        ([1, 2], "holds no names"),
    ):
        config.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=expected):
            load_vae(path)
    config.write_text("{" * 100_000)
    with pytest.raises(ValueError, match="not readable JSON"):
        load_vae(path)


def test_rescaling_for_fp16_changes_nothing() -> None:
    for config in (NARROW_2_1, NARROW_2_2):
        vae, small = random_vae(config).double(), random_vae(config).double()
        rescale(small, 2.0**-6)
        z = torch.randn(1, config.z_dim, 3, 3, 2, dtype=torch.float64)
        assert torch.equal(vae.decode(z, ClipState()), small.decode(z, ClipState()))
        x = torch.rand(1, 3, 5, 32, 32, dtype=torch.float64)
        assert torch.equal(vae.encode(x, ClipState()), small.encode(x, ClipState()))


def test_fp16_survives_activations_beyond_its_range(tmp_path: Path) -> None:
    vae = random_vae(NARROW_2_1)
    rescale(vae, 2.0**18)  # the same output, through activations of some hundred thousand
    path = save(tmp_path / "loud.safetensors", external_state_dict(vae, "official"))
    z = torch.randn(1, 16, 2, 3, 3)
    expected, found = (
        load_vae(path).decode(z, ClipState()),
        load_vae(path, torch.float16).decode(z.half(), ClipState()),
    )
    assert (found - expected).norm() / expected.norm() < 0.02


def _truncated(path: Path) -> None:
    save(path, external_state_dict(random_vae(NARROW_2_1), "official"))
    path.write_bytes(path.read_bytes()[:5000])


def _without(names: str, path: Path) -> None:
    tensors = external_state_dict(random_vae(NARROW_2_1), "official")
    save(path, {name: tensor for name, tensor in tensors.items() if names not in name})


def _too_many_levels(path: Path) -> None:
    """An encoder whose names tell of fifty levels."""
    tensors = external_state_dict(random_vae(NARROW_2_2), "official")
    for i in range(4, 50):
        for j in range(3):
            tensors[f"encoder.downsamples.{i}.downsamples.{j}.residual.2.weight"] = torch.zeros(1, 1, 1, 1, 1)
    save(path, tensors)


def _with_weight(path: Path, weight: Tensor) -> None:
    tensors = external_state_dict(random_vae(NARROW_2_1), "official")
    name = "decoder.middle.0.residual.2.weight"
    save(path, tensors | {name: weight.expand(tensors[name].shape)})


WRONG = {
    "truncated.safetensors": (_truncated, "damaged or cut off"),
    "truncated.pth": (_truncated, "damaged or cut off"),
    "empty.pth": (lambda path: path.write_bytes(b""), "is empty"),
    "text.safetensors": (lambda path: path.write_text("hello"), "by its content"),
    "other.safetensors": (lambda path: save(path, {"unet.weight": torch.zeros(3)}), "not a Wan VAE"),
    "list.pth": (lambda path: torch.save([torch.zeros(2)], path), "not a Wan VAE"),
    "code.pth": (
        lambda path: torch.save({"x": PrintsWhenUnpickled()}, path),
        r"Python objects \(\w+.print\)",
    ),
    "no_conv_in.safetensors": (lambda path: _without("encoder.conv1", path), "incomplete"),
    "no_block.safetensors": (lambda path: _without("upsamples.7", path), "lacks decoder.upsamples.7"),
    "lying.safetensors": (_too_many_levels, "number of levels"),
    "nan.safetensors": (lambda path: _with_weight(path, torch.tensor(float("nan"))), "no numbers"),
    "whole.safetensors": (lambda path: _with_weight(path, torch.tensor(1)), "not floating point"),
    "expanded.pth": (lambda path: _with_weight(path, torch.tensor(1.0)), None),  # read, as it is not large
}


@pytest.mark.parametrize("name", WRONG)
def test_refused_in_one_sentence(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, expected = WRONG[name]
    path = tmp_path / name
    make(path)
    if expected is None:
        load_vae(path)
        return
    with pytest.raises(ValueError, match=expected) as refusal:
        load_vae(path)
    assert "\n" not in str(refusal.value)
    assert "ran" not in capsys.readouterr().out


def test_a_folder_with_copies_and_variants(tmp_path: Path) -> None:
    """As diffusers' repositories have them: .bin beside .safetensors, fp16 beside fp32."""
    vae = random_vae(NARROW_2_1)
    whole = external_state_dict(vae, "diffusers")
    torch.save(whole, tmp_path / "diffusion_pytorch_model.bin")
    assert load_vae(tmp_path).config == NARROW_2_1
    save(tmp_path / "diffusion_pytorch_model.safetensors", whole)
    save(tmp_path / "diffusion_pytorch_model.fp16.safetensors", {k: v.half() for k, v in whole.items()})
    assert find_weights_file(str(tmp_path)).path == tmp_path / "diffusion_pytorch_model.safetensors"
    save(tmp_path / "another.safetensors", whole)
    with pytest.raises(
        ValueError, match="holds 2 weight files; name one of them, such as .*another.safetensors"
    ):
        load_vae(tmp_path)


def test_sources_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file or folder"):
        load_vae(tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="no file or folder models/missing.pth"):
        load_vae("models/missing.pth")  # not a Hugging Face id
    with pytest.raises(ValueError, match="holds no weights"):
        load_vae(tmp_path)


def test_offline_hub_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"could not be had from Hugging Face .*; download"):
        load_vae("nobody/nothing-of-this-name")


def test_dtypes() -> None:
    assert choose_dtype("fp32", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match="fp31"):
        choose_dtype("fp31", torch.device("cpu"))
