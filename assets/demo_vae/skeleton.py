"""Initial weights of the demo VAE: a linear transform code, written into the full network.

Training from random weights takes long to become better than a linear code of the same size. Training from the code
is better from the first step.

A residual branch is silent if it adds nothing. With all of them silent the Wan VAE is a chain of convolutions. The
encoder's are set to principal components: of 2x2 pixels, then of pairs of frames. The decoder's are set layer by
layer to the least-squares inverse. The norm and SiLU of the two heads must stay nearly linear. One channel carries
a large constant, so the norm divides by nearly the same number everywhere. Features come in pairs of opposite sign,
and silu(x) - silu(-x) = x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from linear import (
    doubled,
    fit_pixels,
    full_in,
    identity,
    principal,
    quiet,
    raise_frames,
    rows,
    set_half,
    set_pairs,
    set_shortcut,
    solve,
    windows,
)
from torch import Tensor, nn

from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import Attention, Downsample, ResidualBlock, Upsample
from wanvae_app.model.vae import WanVAE

LOUD = 10.0  # the constant channel before a head, relative to the norm of the other channels
SPARE = (
    0.02  # standard deviation of weights for channels that carry nothing at first, so that these can learn
)


def blocks(vae: WanVAE, finest: int = 4) -> list[nn.Module]:
    """The blocks with residual branches at the `finest` scales: 1 is full size only, 4 is all."""
    parts = [*vae.encoder.levels[:finest], *list(vae.decoder.levels)[::-1][:finest]]
    if finest == 4:
        parts += [vae.encoder.middle, vae.decoder.middle]
    return [m for part in parts for m in part.modules() if isinstance(m, ResidualBlock | Attention)]


def silence(vae: WanVAE) -> None:
    """Make all residual branches silent: their last layer is zero, and the others can learn at once."""
    for block in blocks(vae):
        last = block.proj if isinstance(block, Attention) else block.conv2
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if isinstance(block, ResidualBlock):
            nn.init.kaiming_normal_(block.conv1.weight, nonlinearity="linear")
            nn.init.zeros_(block.conv1.bias)


@torch.no_grad()
def open_norms(vae: WanVAE, chosen: list[nn.Module], clips: Tensor) -> None:
    """Set the first gammas of the chosen blocks such that all channels have unit size after the norm."""

    def look(norm: nn.Module, inputs: tuple) -> None:
        x = F.normalize(inputs[0], dim=1) * inputs[0].shape[1] ** 0.5
        size = x.transpose(0, 1).flatten(1).square().mean(1).sqrt()
        norm.gamma.copy_((1 / size.clamp_min(1e-6)).clamp(0.2, 8))

    norms = [b.norm if isinstance(b, Attention) else b.norm1 for b in chosen]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    vae.decode(vae.encode(clips, ClipState()), ClipState())
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def build(vae: WanVAE, clips: Tensor) -> None:
    """Write the linear code for clips [B, 3, T, H, W] in [-1, 1] into a Wan 2.1 network of base_dim 16."""
    silence(vae)
    enc, dec, z_dim = vae.encoder, vae.decoder, vae.config.z_dim
    for module in vae.modules():
        if isinstance(module, Downsample | Upsample):
            module.conv.weight.normal_(0, SPARE)

    # Encoder. full, f2, f4, f8 are the features at 1/1 to 1/8 of the size; a final t is after pairing frames.
    colours = principal(rows(clips)[:: max(1, clips.numel() // 3_000_000)], 3)
    quiet(enc.conv_in)
    enc.conv_in.weight.normal_(0, SPARE)
    enc.conv_in.weight[:3] = 0
    enc.conv_in.weight[:3, :, 2, 1, 1] = colours
    enc.conv_in.bias[15] = 0.7
    full = torch.einsum("oc,bcthw->bothw", colours, clips)
    steps = [level.resample for level in enc.levels if level.resample is not None]
    f2 = set_half(steps[0], full_in(full, 16), 3, 12)
    steps[0].conv.bias[15] = 1.0
    set_shortcut(enc.levels[1].blocks[0].shortcut, 12, 31, 1.0)
    f4 = set_half(steps[1], full_in(f2, 32), 12, 31)
    steps[1].conv.bias[31] = 1.5
    set_pairs(steps[1], f4, 31, list(range(31)))
    steps[1].time_conv.bias[31] = 1.5
    f4t = steps[1](full_in(f2, 32), ClipState())[:, :31]
    set_shortcut(enc.levels[2].blocks[0].shortcut, 31, 63, 1.5)
    # Channels of the 47 components. Channels 16 to 31 are the first 16 negated, 32 is the constant.
    where = [*range(16), *range(33, 64)]
    f8 = set_half(steps[2], full_in(f4t, 64), 31, 47)
    weight = steps[2].conv.weight[:47].clone()
    quiet(steps[2].conv)
    steps[2].conv.weight[where] = weight
    set_pairs(steps[2], f8, 47, where)
    loud = LOUD * float(f8.square().sum(1).mean().sqrt())
    for conv in (steps[2].conv, steps[2].time_conv):
        conv.weight[16:32] = -conv.weight[:16]
        conv.bias[32] = loud
    f8t = steps[2](full_in(f4t, 64), ClipState())
    scale = f8t[:, :16].square().mean((0, 2, 3, 4)).sqrt()
    enc.head.norm.gamma.fill_(loud / 8)
    enc.head.norm.gamma[:16] = enc.head.norm.gamma[16:32] = loud / 8 / scale
    enc.head.norm.gamma[32] = 0.1
    quiet(enc.head.conv)
    enc.head.conv.weight.normal_(0, 1e-4)
    enc.head.conv.weight[z_dim:] = 0
    for i in range(z_dim):
        enc.head.conv.weight[i, i, 2, 1, 1], enc.head.conv.weight[i, i + 16, 2, 1, 1] = 1.0, -1.0
    identity(vae.quant_conv, z_dim)
    vae.quant_conv.bias[z_dim:] = -8.0  # the log variance: a constant
    identity(vae.post_quant_conv, z_dim)

    # Decoder: each layer predicts the encoder's features of the same size.
    z = vae.encode(clips, ClipState())
    w, b = solve(rows(windows(z)), rows(f8t[:, where]), 1e-4)
    quiet(dec.conv_in)
    dec.conv_in.weight[:47], dec.conv_in.bias[:47], dec.conv_in.bias[63] = (
        w.unflatten(1, (z_dim, 3, 3, 3)),
        b,
        2.0,
    )
    x = dec.conv_in(z, ClipState())
    ups = [level.resample for level in dec.levels if level.resample is not None]
    for step in ups:
        quiet(step.conv)
        step.conv.weight.normal_(0, SPARE)
    x = raise_frames(ups[0], x, f8, 47, 2.0)
    fit_pixels(ups[0].conv, x, f4t, 47)
    ups[0].conv.weight[31], ups[0].conv.bias[31] = 0, 1.5
    x = doubled(ups[0], x)
    set_shortcut(dec.levels[1].blocks[0].shortcut, 31, 63, 1.5)
    x = raise_frames(ups[1], full_in(x[:, :31], 64), f4, 31, 1.5)
    fit_pixels(ups[1].conv, x, f2, 31)
    ups[1].conv.weight[31], ups[1].conv.bias[31] = 0, 1.0
    x = doubled(ups[1], x)
    fit_pixels(ups[2].conv, x, full, 12)
    ups[2].conv.weight[3:6], ups[2].conv.bias[3:6] = -ups[2].conv.weight[:3], -ups[2].conv.bias[:3]
    loud = LOUD * float(full.square().sum(1).mean().sqrt())
    ups[2].conv.weight[6], ups[2].conv.bias[6] = 0, loud
    dec.head.norm.gamma.fill_(loud / 4)
    dec.head.norm.gamma[6] = 0.1
    quiet(dec.head.conv)
    dec.head.conv.weight.normal_(0, 1e-3)
    dec.head.conv.weight[:, :3, 2, 1, 1], dec.head.conv.weight[:, 3:6, 2, 1, 1] = colours.T, -colours.T
    open_norms(vae, blocks(vae), clips[:4])
