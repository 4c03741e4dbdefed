"""One rank equals diffusers' AutoencoderKLWan, through a file that diffusers saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from support.distance import distance
from torch import Tensor

from wanvae_app.formats.checkpoint import load_vae
from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import Downsample
from wanvae_app.model.vae import WanVAE

WAN_2_1 = {"base_dim": 8, "z_dim": 16}
WAN_2_2 = {
    "base_dim": 8,
    "decoder_base_dim": 12,
    "z_dim": 48,
    "latents_mean": [0.1] * 48,
    "latents_std": [1.5] * 48,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
}

FEW_LEVELS = {
    "base_dim": 8,
    "z_dim": 16,
    "dim_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [True],
}


def reference(folder: Path, settings: dict[str, Any]) -> AutoencoderKLWan:
    """Make diffusers' VAE with random weights, and save it to the folder."""
    torch.manual_seed(3)
    vae = AutoencoderKLWan(**settings).eval().requires_grad_(False)
    for parameter in vae.parameters():  # at their initial value of 1, gammas would hide a mistake
        parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))
    vae.save_pretrained(folder)
    return vae


@pytest.mark.parametrize("settings", [WAN_2_1, WAN_2_2, FEW_LEVELS], ids=["2.1", "2.2", "two levels"])
@pytest.mark.parametrize("num_frames", [1, 9])
@pytest.mark.parametrize("height, width", [(3, 5), (2, 2)])
def test_same_as_diffusers(
    tmp_path: Path, settings: dict[str, Any], num_frames: int, height: int, width: int
) -> None:
    theirs = reference(tmp_path, settings)
    ours, exact = load_vae(tmp_path), load_vae(tmp_path, torch.float64)
    assert ours.config.latents_mean == tuple(theirs.config.latents_mean)
    factor = ours.config.spatial_factor
    x = torch.rand(1, 3, num_frames, height * factor, width * factor) * 2 - 1
    z = torch.randn(1, ours.config.z_dim, ours.config.num_latents(num_frames), height, width)

    def both(vae: WanVAE, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return vae.encode(x.to(dtype), ClipState()), vae.decode(z.to(dtype), ClipState())

    def both_reference() -> tuple[Tensor, Tensor]:
        dtype = theirs.dtype
        return theirs.encode(x.to(dtype)).latent_dist.mean, theirs.decode(z.to(dtype)).sample

    in_single = both_reference()
    theirs.double()
    for mine, truth, single, double in zip(
        both(ours, torch.float32), both(exact, torch.float64), in_single, both_reference(), strict=True
    ):
        assert mine.shape == double.shape
        # diffusers rounds to float32 in its upsampling, in any dtype.
        assert distance(truth, double) < 1e-6
        # In float32 both round at every layer; our error is no larger than diffusers'.
        assert distance(mine, double) < 1.25 * distance(single, double) + 1e-7
        assert distance(mine, single) < 5e-6


@pytest.mark.parametrize("height, width", [(2, 2), (2, 6), (4, 2), (6, 8)])
@torch.no_grad()
def test_downsampling_pads_below_and_to_the_right(height: int, width: int) -> None:
    """Of a batch of two clips, in chunks of one, two and two frames."""
    layer, state = Downsample(4, temporal=True).double(), ClipState()
    assert layer.time_conv is not None
    x = torch.randn(2, 4, 5, height, width, dtype=torch.float64)
    halved = F.conv3d(F.pad(x, (0, 1, 0, 1)), layer.conv.weight[:, :, None], layer.conv.bias, (1, 2, 2))
    later = F.conv3d(halved, layer.time_conv.weight, layer.time_conv.bias, (2, 1, 1))
    found = []
    for part in x.split([1, 2, 2], 2):
        found.append(layer(part, state))
        state.first = False
    assert distance(torch.cat(found, 2), torch.cat([halved[:, :, :1], later], 2)) < 1e-14


@pytest.mark.parametrize("settings", [WAN_2_1, WAN_2_2], ids=["2.1", "2.2"])
def test_bf16_strays_no_further_than_diffusers(tmp_path: Path, settings: dict[str, Any]) -> None:
    theirs = reference(tmp_path, settings)
    factor = load_vae(tmp_path).config.spatial_factor
    x = torch.rand(1, 3, 5, 4 * factor, 4 * factor) * 2 - 1
    z = torch.randn(1, settings["z_dim"], 2, 4, 4)
    exact, ours = load_vae(tmp_path, torch.float64), load_vae(tmp_path, torch.bfloat16)
    theirs.bfloat16()
    truth = exact.decode(z.double(), ClipState())
    assert distance(ours.decode(z.bfloat16(), ClipState()), truth) < 1.1 * distance(
        theirs.decode(z.bfloat16()).sample, truth
    )
    truth = exact.encode(x.double(), ClipState())
    assert distance(ours.encode(x.bfloat16(), ClipState()), truth) < 1.1 * distance(
        theirs.encode(x.bfloat16()).latent_dist.mean, truth
    )
