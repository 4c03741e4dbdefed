"""LoadedVae with half a VAE, and with pixels that have alpha."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny import some_latent, some_video, tiny_vae, tiny_vae_with_alpha

import wanvae_app
from wanvae_app.api.ranks import Ranks
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group

VIDEO = torch.from_numpy(some_video(5).read(0, 5))


def loaded(vae: WanVAE) -> wanvae_app.LoadedVae:
    return wanvae_app.LoadedVae(vae, Ranks(Group(0, 1, torch.device("cpu"))))


def half_of(whole: WanVAE, half: str) -> WanVAE:
    """The encoder or the decoder of a VAE alone."""
    vae = WanVAE(replace(whole.config, **{f"has_{half}": False})).requires_grad_(False)
    vae.load_state_dict(whole.state_dict(), strict=False)
    return vae


def test_a_half_does_its_own_and_refuses_the_other() -> None:
    whole, z = tiny_vae(), some_latent(2)
    without_encoder, without_decoder = loaded(half_of(whole, "encoder")), loaded(half_of(whole, "decoder"))
    frames = without_encoder.decode(z, scaling="normalised")
    assert torch.equal(frames, loaded(whole).decode(z, scaling="normalised"))
    latent = without_decoder.encode(VIDEO, scaling="raw")
    assert torch.equal(latent, loaded(whole).encode(VIDEO, scaling="raw"))
    with pytest.raises(
        ValueError, match="^This VAE has no encoder: it decodes latents, and takes no video.$"
    ):
        without_encoder.encode(VIDEO, scaling="raw")
    with pytest.raises(
        ValueError, match="^This VAE has no decoder: it encodes videos, and shows no frames.$"
    ):
        without_decoder.decode(z, scaling="raw")


def test_alpha_goes_in_and_comes_out() -> None:
    vae = loaded(tiny_vae_with_alpha())
    frames = vae.decode(some_latent(2), scaling="normalised")
    assert frames.shape == (5, 32, 24, 4)
    assert vae.decode(some_latent(2), scaling="normalised", output="float").shape == (1, 4, 5, 32, 24)
    opaque = vae.encode(VIDEO, scaling="raw")
    alpha = torch.full_like(VIDEO[..., :1], 255)
    assert torch.equal(vae.encode(torch.cat((VIDEO, alpha), 3), scaling="raw"), opaque)
    floats = VIDEO.permute(3, 0, 1, 2)[None] / 127.5 - 1
    assert torch.allclose(vae.encode(floats, scaling="raw"), opaque, atol=1e-5)
    assert not torch.allclose(vae.encode(torch.cat((VIDEO, alpha // 2), 3), scaling="raw"), opaque, atol=1e-3)
    with pytest.raises(ValueError, match=r"has the shape \[T, H, W, 3\], not \[5, 32, 24, 2\]"):
        vae.encode(VIDEO[..., :2], scaling="raw")
    with pytest.raises(ValueError, match=r"has the shape \[T, H, W, 3\], not \[5, 32, 24, 4\]"):
        loaded(tiny_vae()).encode(torch.cat((VIDEO, alpha), 3), scaling="raw")
