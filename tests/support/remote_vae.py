"""The remote VAE of a server in this process: its address with the password, and what its VAE makes of a clip."""

from __future__ import annotations

from urllib.parse import quote

import numpy as np
import torch
from support.page_server import AUTH, Server
from support.tiny import tiny_vae
from torch import Tensor

from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.formats.latents import to_normalised
from wanvae_app.model.pixels import from_uint8, to_uint8


def address(server: Server, path: str = "", login: tuple[str, str] = AUTH) -> str:
    """The server's address with user and password in it, as diffusers takes it."""
    user, password = (quote(part, safe="") for part in login)
    return f"{server.url.replace('http://', f'http://{user}:{password}@')}{path}"


def local_floats(raw: Tensor) -> Tensor:
    """Frames of a raw latent, float32 [1 3 T H W] in [-1, 1], decoded here."""
    return torch.cat(list(decode_chunks(tiny_vae(), raw.split(1, 2))), 2)


def local_frames(raw: Tensor) -> np.ndarray:
    """Frames of a raw latent, uint8 [T H W 3], decoded here."""
    return to_uint8(local_floats(raw)).numpy()


def local_latent(frames: np.ndarray) -> Tensor:
    """The raw latent of frames, uint8 [T H W 3], encoded here."""
    x = from_uint8(torch.from_numpy(frames))
    chunks = [x[:, :, start : start + (4 if start else 1)] for start in (0, *range(1, x.shape[2], 4))]
    return torch.cat(list(encode_chunks(tiny_vae(), chunks)), 2)


def raw_latent(num_latents: int = 2, seed: int = 0) -> Tensor:
    """A raw latent [1 16 T 4 3] with the statistics of the VAE's family, float32."""
    config = tiny_vae().config
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 16, num_latents, 4, 3, generator=generator)
    mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    return noise * std + mean


def normalised(raw: Tensor) -> Tensor:
    """The latent as a diffusers pipeline hands it out."""
    return to_normalised(raw, tiny_vae().config)
