"""The WanVAE's layers on whole clips, for training: no ClipState, no clamp, and silent blocks are skipped.

Equal to WanVAE.encode and, up to its clamp, WanVAE.decode if the skipped blocks are silent (see skeleton.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanvae_app.model.layers import Attention, Downsample, PixelNorm, ResidualBlock, Upsample
from wanvae_app.model.vae import WanVAE


def conv(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A causal convolution: in time only the past is padded, with zeros."""
    kt, kh, kw = layer.kernel_size
    if kt == 1:
        return F.conv3d(x, layer.weight, layer.bias)
    if x.shape[2] == 1:
        return F.conv3d(x, layer.weight[:, :, -1:], layer.bias, padding=(0, kh // 2, kw // 2))
    return F.conv3d(
        F.pad(x, (0, 0, 0, 0, kt - 1, 0)), layer.weight, layer.bias, padding=(0, kh // 2, kw // 2)
    )


def norm(layer: PixelNorm, x: Tensor) -> Tensor:
    """The RMS norm over channels, with statistics in float32."""
    gain = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-12)
    return x * gain.to(x.dtype) * layer.gamma.to(x.dtype).view(-1, *(1,) * (x.ndim - 2))


def act(layer: PixelNorm, x: Tensor) -> Tensor:
    """Norm and SiLU."""
    return F.silu(norm(layer, x))


def residual(block: ResidualBlock, x: Tensor, skip: bool) -> Tensor:
    """A residual block; its shortcut alone if its branch is skipped."""
    shortcut = x if block.shortcut is None else conv(block.shortcut, x)
    if skip:
        return shortcut
    return shortcut + conv(block.conv2, act(block.norm2, conv(block.conv1, act(block.norm1, x))))


def attention(block: Attention, x: Tensor, skip: bool) -> Tensor:
    """Attention within each frame; x itself if it is skipped."""
    if skip:
        return x
    frames = x.transpose(1, 2).flatten(0, 1)
    q, k, v = block.to_qkv(norm(block.norm, frames)).flatten(2).transpose(1, 2).chunk(3, 2)
    out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    out = block.proj(out.transpose(1, 2).unflatten(2, frames.shape[2:]))
    return x + out.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def per_frame(layer: nn.Conv2d, x: Tensor, padding: int) -> Tensor:
    """A convolution of every frame."""
    y = F.conv2d(x.transpose(1, 2).flatten(0, 1), layer.weight, layer.bias, layer.stride, padding)
    return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def down(step: Downsample, x: Tensor) -> Tensor:
    """Half the rows and columns and, in some steps, half the frames after the first."""
    x = per_frame(step.conv, F.pad(x, (0, 1, 0, 1)), 0)
    if step.time_conv is None or x.shape[2] == 1:
        return x
    return torch.cat(
        [x[:, :, :1], F.conv3d(x, step.time_conv.weight, step.time_conv.bias, step.time_conv.stride)], 2
    )


def up(step: Upsample, x: Tensor) -> Tensor:
    """Twice the rows and columns and, in some steps, twice the frames after the first."""
    if step.time_conv is not None and x.shape[2] > 1:
        rest = conv(step.time_conv, x[:, :, 1:]).unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        x = torch.cat([x[:, :, :1], rest], 2)
    x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
    return per_frame(step.conv, x, 1)


def apply(layer: nn.Module, x: Tensor, skipped: set[nn.Module]) -> Tensor:
    """A level, a residual block or an attention, without the skipped blocks' branches."""
    if isinstance(layer, ResidualBlock):
        return residual(layer, x, layer in skipped)
    if isinstance(layer, Attention):
        return attention(layer, x, layer in skipped)
    for block in layer.blocks:
        x = residual(block, x, block in skipped)
    if layer.resample is None:
        return x
    return down(layer.resample, x) if isinstance(layer.resample, Downsample) else up(layer.resample, x)


def encode(vae: WanVAE, x: Tensor, skipped: set[nn.Module]) -> Tensor:
    """Clips [B, 3, T, H, W] in [-1, 1] to raw latents [B, z, T', H / 8, W / 8]."""
    x = conv(vae.encoder.conv_in, x)
    for layer in (*vae.encoder.levels, *vae.encoder.middle):
        x = apply(layer, x, skipped)
    x = conv(vae.encoder.head.conv, act(vae.encoder.head.norm, x))
    return conv(vae.quant_conv, x).chunk(2, 1)[0]


def decode(vae: WanVAE, z: Tensor, skipped: set[nn.Module]) -> Tensor:
    """Raw latents [B, z, T', H / 8, W / 8] to clips [B, 3, T, H, W], not clamped."""
    x = conv(vae.decoder.conv_in, conv(vae.post_quant_conv, z))
    for layer in (*vae.decoder.middle, *vae.decoder.levels):
        x = apply(layer, x, skipped)
    return conv(vae.decoder.head.conv, act(vae.decoder.head.norm, x))
