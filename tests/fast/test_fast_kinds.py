"""The fast path against the plain one: pixels with alpha, and widths that are no multiples of a base width."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.distance import distance

from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.model.vae import WanVAE

pytest.importorskip("triton")  # none for this platform
from support.fast_path import DEVICE, DTYPE, GPU, UNSUPPORTED, fast_vae

pytestmark = pytest.mark.skipif(bool(UNSUPPORTED), reason=UNSUPPORTED)

FEW_LAYERS = replace(
    PRESETS["wan2.1"],
    base_dim=8,
    decoder_base_dim=8,
    num_res_blocks=1,
    dim_mult=(1, 2),
    temporal_downsample=(True,),
)
KINDS = {
    "alpha": replace(FEW_LAYERS, in_channels=4, out_channels=4),
    "alpha, upscaling, no encoder": replace(FEW_LAYERS, has_encoder=False, out_channels=4, output_patch=2),
    "pruned": replace(
        FEW_LAYERS, encoder_widths=(8, 16, 24), decoder_widths=(24, 16, 8), upsampled_widths=(16,)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_vaes(kind: str) -> None:
    config: WanConfig = KINDS[kind]
    torch.manual_seed(5)
    plain, fast = WanVAE(config).requires_grad_(False), fast_vae(config)
    fast.load_state_dict(plain.state_dict())
    fast.to(DEVICE, DTYPE).channels_last()
    z = torch.randn(1, config.z_dim, 2, 2, 3)
    x = torch.rand(1, config.in_channels, 3, 4, 6) * 2 - 1
    allowed = 0.03 if GPU else 5e-6
    expected, found = (torch.cat(list(decode_chunks(vae, z.split(1, 2))), 2) for vae in (plain, fast))
    assert found.shape[1] == config.out_channels and distance(found.cpu(), expected) < allowed
    pixels = fast.to_uint8(found)
    assert pixels.shape[-1] == config.out_channels and pixels.dtype == torch.uint8
    if config.has_encoder:
        expected, found = (next(encode_chunks(vae, [x])) for vae in (plain, fast))
        assert distance(found.cpu(), expected) < allowed
