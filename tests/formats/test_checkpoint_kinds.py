"""Checkpoints that are not one whole VAE in one file: halves, pieces, pruned widths, alpha, fp8, several VAEs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, AutoencoderKLWan
from safetensors.torch import load_file, save_file
from support.distance import distance
from torch import Tensor

from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.formats.checkpoint import external_state_dict, family_and_width, load_vae
from wanvae_app.formats.checkpoint_config import recognise
from wanvae_app.formats.key_maps import NAMINGS, Naming
from wanvae_app.formats.weights_file import find_weights_file
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.vae import WanVAE

NARROW_2_1 = replace(PRESETS["wan2.1"], base_dim=4, decoder_base_dim=4)
NARROW_2_2 = replace(PRESETS["wan2.2"], base_dim=4, decoder_base_dim=8)
PRUNED = replace(
    NARROW_2_1,
    base_dim=5,
    decoder_base_dim=3,
    dim_mult=(1, 1, 1, 2),
    encoder_widths=(5, 6, 7, 9, 11),
    decoder_widths=(13, 12, 10, 7, 3),
    upsampled_widths=(9, 4, 5),
)
FLOAT8 = torch.float8_e4m3fn


def random_weights(config: WanConfig, naming: Naming = "official", seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    tensors = external_state_dict(WanVAE(config).requires_grad_(False), naming)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


def some_latent(config: WanConfig) -> Tensor:
    return torch.randn(1, config.z_dim, 2, 3, 2, generator=torch.Generator().manual_seed(1))


def some_frames(config: WanConfig) -> Tensor:
    side = 2 * config.spatial_factor
    return (
        torch.rand(1, config.in_channels, 5, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    )


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("config", [NARROW_2_1, NARROW_2_2, replace(NARROW_2_1, output_patch=2)])
def test_half_a_vae_does_what_the_whole_does(tmp_path: Path, naming: Naming, config: WanConfig) -> None:
    weights = random_weights(config, naming)
    whole = load_vae(save(tmp_path / "whole.safetensors", weights))
    starts = {"decoder": ("decoder.", "conv2.", "post_quant"), "encoder": ("encoder.", "conv1.", "quant")}
    halves = {
        half: load_vae(
            save(tmp_path / f"{half}.safetensors", {k: v for k, v in weights.items() if k.startswith(start)})
        )
        for half, start in starts.items()
    }
    decoder, encoder = halves["decoder"], halves["encoder"]
    assert (decoder.config.has_encoder, decoder.config.has_decoder) == (False, True)
    assert (encoder.config.has_encoder, encoder.config.has_decoder) == (True, False)
    z, x = some_latent(config), some_frames(config)
    assert torch.equal(decoder.decode(z, ClipState()), whole.decode(z, ClipState()))
    assert torch.equal(encoder.encode(x, ClipState()), whole.encode(x, ClipState()))
    assert decoder.notes == ("decoder.safetensors has no encoder: it decodes latents, and takes no video.",)
    assert encoder.notes == ("encoder.safetensors has no decoder: it encodes videos, and shows no frames.",)
    assert "decoder, width" in decoder.name and "encoder, width 4" in encoder.name


@pytest.mark.parametrize("naming", NAMINGS)
def test_pruned_widths(tmp_path: Path, naming: Naming) -> None:
    weights = random_weights(PRUNED, naming)
    vae = load_vae(save(tmp_path / "pruned.safetensors", weights))
    assert vae.config == PRUNED
    truth = WanVAE(PRUNED).requires_grad_(False)
    truth.load_state_dict(vae.state_dict())
    z = some_latent(PRUNED)
    assert distance(vae.decode(z, ClipState()), truth.decode(z, ClipState())) < 1e-6
    assert vae.encode(some_frames(PRUNED), ClipState()).shape == (1, 16, 2, 2, 2)


def test_pruned_shortcuts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    config = replace(NARROW_2_2, encoder_widths=(4, 5, 8, 16, 16))
    shapes = {name: tuple(tensor.shape) for name, tensor in random_weights(config).items()}
    assert recognise(shapes)[1].encoder_widths == (4, 5, 8, 16, 16)
    with pytest.raises(ValueError, match="between which its shortcuts, which have no weights, cannot pass"):
        load_vae(save(tmp_path / "pruned.safetensors", random_weights(config)))


@torch.no_grad()
def test_four_channels_as_diffusers_codes_them(tmp_path: Path) -> None:
    """Qwen-Image-Layered's VAE codes red, green, blue and alpha."""
    torch.manual_seed(3)
    theirs = AutoencoderKLQwenImage(base_dim=8, input_channels=4).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_vae(tmp_path)
    assert (ours.config.in_channels, ours.config.out_channels, ours.config.patch_size) == (4, 4, 1)
    assert family_and_width(ours.config) == "Wan 2.1 VAE, width 8, with alpha"
    x, z = some_frames(ours.config), some_latent(ours.config)
    assert distance(ours.encode(x, ClipState()), theirs.encode(x).latent_dist.mean) < 5e-6
    frames = ours.decode(z, ClipState())
    assert frames.shape[1] == 4 and distance(frames, theirs.decode(z).sample) < 5e-6
    assert ours.to_uint8(frames).shape == (5, 24, 16, 4)


@pytest.mark.parametrize("patch, num_channels", [(1, 3), (1, 4), (2, 3), (2, 4)])
def test_channels_and_patch_of_a_decoder(tmp_path: Path, patch: int, num_channels: int) -> None:
    config = replace(NARROW_2_1, output_patch=patch, out_channels=num_channels)
    vae = load_vae(save(tmp_path / "vae.safetensors", random_weights(config)))
    assert vae.config == config
    height, width = 3 * config.output_factor, 2 * config.output_factor
    assert vae.decode(some_latent(config), ClipState()).shape == (1, num_channels, 5, height, width)


def test_a_diffusers_folder_in_pieces(tmp_path: Path) -> None:
    """As diffusers saves it, fp16 pieces beside those of the whole."""
    torch.manual_seed(4)
    theirs = AutoencoderKLWan(base_dim=4, z_dim=16)
    folder = tmp_path / "vae"
    theirs.save_pretrained(folder, max_shard_size="100KB")
    theirs.half().save_pretrained(folder, max_shard_size="60KB", variant="fp16")
    pieces = sorted(folder.glob("*-of-*.safetensors"))
    assert len(pieces) > 4 and (folder / "diffusion_pytorch_model.safetensors.index.json").is_file()
    file = find_weights_file(str(tmp_path)).path
    assert "fp16" not in file.name and file.name.endswith(f"-00001-of-{file.name[-17:-12]}.safetensors")
    weights = external_state_dict(load_vae(tmp_path), "diffusers")
    expected = {k: v for piece in pieces if "fp16" not in piece.name for k, v in load_file(piece).items()}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    for index in folder.glob("*.index.json"):
        assert load_vae(index).config.base_dim == 4
    file.with_name(file.name.replace("-00001-", "-00002-")).unlink()
    with pytest.raises(ValueError, match=r"lacks diffusion_pytorch_model-00002-of-\d+.safetensors, one of"):
        load_vae(folder)


def test_a_list_of_pieces_that_is_none(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for text in ("{", '{"weight_map": {}}', "[]", '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        with pytest.raises(ValueError, match="is no list of a VAE's pieces"):
            load_vae(index)


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_scaled_fp8(tmp_path: Path, ending: str, per_channel: bool) -> None:
    """Weights are weight * scale; what stands beside them for products in fp8 plays no part."""
    weights = random_weights(NARROW_2_1)
    stored, expected = {"scaled_fp8": torch.zeros(2, dtype=FLOAT8)}, {}
    for name, tensor in weights.items():
        if not name.endswith("weight"):
            stored[name] = expected[name] = tensor
            continue
        stem, num_out = name.removesuffix("weight"), len(tensor)
        scale = tensor.abs().amax(tuple(range(1, tensor.ndim))) / 448 if per_channel else torch.tensor(0.01)
        each = scale.view(-1, *(1,) * (tensor.ndim - 1))
        stored[name] = (tensor / each).to(FLOAT8)
        expected[name] = stored[name].float() * each
        stored[stem + ending] = scale
        stored[stem + "scale_input"] = torch.tensor(7.0)
        assert not per_channel or scale.shape == (num_out,)
    vae = load_vae(save(tmp_path / "fp8.safetensors", stored))
    loaded = external_state_dict(vae, "official")
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_of_several_vaes_the_averaged_one_is_taken(tmp_path: Path) -> None:
    raw, averaged = random_weights(NARROW_2_1, seed=1), random_weights(NARROW_2_1, seed=2)
    path = tmp_path / "training.safetensors"
    save(path, {f"vae.{k}": v for k, v in raw.items()} | {f"vae_ema.{k}": v for k, v in averaged.items()})

    def first_weight(source: str) -> Tensor:
        return external_state_dict(load_vae(source), "official")["conv1.weight"]

    vae = load_vae(path)
    assert torch.equal(first_weight(str(path)), averaged["conv1.weight"])
    assert vae.notes == (
        "training.safetensors holds 2 VAEs (vae_ema, vae), of which vae_ema is used; --vae training.safetensors:vae "
        "takes another.",
    )
    assert torch.equal(first_weight(f"{path}:vae"), raw["conv1.weight"])
    assert not load_vae(f"{path}:vae").notes
    with pytest.raises(ValueError, match="has no VAE called 'student'; it has vae_ema, vae"):
        load_vae(f"{path}:student")


def test_a_part_without_a_prefix_and_one_that_is_incomplete(tmp_path: Path) -> None:
    raw, averaged = random_weights(NARROW_2_1, seed=1), random_weights(NARROW_2_1, seed=2)
    half = {f"ema.{k}": v for k, v in averaged.items() if k.startswith(("decoder.", "conv2."))}
    path = save(tmp_path / "a.safetensors", raw | half)
    assert torch.equal(load_vae(path).quant_conv.weight, raw["conv1.weight"]), "a whole one goes first"
    assert not load_vae(f"{path}:ema").config.has_encoder
    assert load_vae(f"{path}:.").config == NARROW_2_1
    teacher = save(tmp_path / "b.safetensors", raw | {f"old.{k}": v for k, v in averaged.items()})
    assert torch.equal(load_vae(teacher).quant_conv.weight, raw["conv1.weight"])


def test_gguf(tmp_path: Path) -> None:
    """Weights of four dimensions with their true shape beside them, of five, quantised ones and half precisions."""
    weights = random_weights(NARROW_2_1)
    path = tmp_path / "vae.gguf"
    writer, expected = gguf.GGUFWriter(path, "wan"), {}
    for index, (name, tensor) in enumerate(weights.items()):
        values = tensor.numpy()
        kind = (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16)[index % 2]
        if tensor.numel() % 32 == 0 and tensor.ndim == 5:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
            values = values.reshape(-1, 32)
        stored = gguf.quants.quantize(values, kind)
        expected[name] = torch.from_numpy(gguf.quants.dequantize(stored, kind)).reshape(tensor.shape)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = external_state_dict(load_vae(path), "official")
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert distance(loaded["conv1.weight"], weights["conv1.weight"]) < 0.02
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"^vae.gguf is damaged or cut off: [^\n]+$"):
        load_vae(path)
