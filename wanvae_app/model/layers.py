"""The layers of the Wan VAE, 2.1 and 2.2, in plain PyTorch.

Shapes, here and in `vae.py`:

    B C T H W    batch, channels, frames, rows and columns; H and W are those of this rank's slab of the picture
    B T H W C    the same, as it lies in memory: channels last
    BT C H W     frame by frame, for two-dimensional layers
    BT N C       the N pixels of a frame as tokens, for attention

Every layer that looks beyond its own pixel takes the clip's `ClipState`, and asks it for past frames and for rows of
neighbouring ranks. No layer knows how the clip is cut into chunks, or the picture into slabs.

A clip's first latent frame stands for one frame, every later one for `temporal_factor` frames. So layers that change
the number of frames, here called temporal, leave the clip's first frame alone.

The layers follow the official code: CausalConv3d, RMS_norm, ResidualBlock, AttentionBlock and Resample in
wan/modules/vae.py of github.com/Wan-Video/Wan2.1, AvgDown3D and DupUp3D in wan/modules/vae2_2.py of Wan2.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanvae_app.channels_last import cat_channels_last
from wanvae_app.model.clip_state import ClipState


class PixelNorm(nn.Module):
    """RMSNorm over the channels of each pixel: x / sqrt(mean(x^2)) * gamma. Zeros stay zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B C ...]; half precisions are computed in float32."""
        # eps only prevents 0 / 0. The official RMS_norm limits the vector's length to 1e-12 from below.
        return F.rms_norm(x.movedim(1, -1), self.gamma.shape, self.gamma, eps=1e-24).movedim(-1, 1)


class CausalConv3d(nn.Conv3d):
    """A convolution over present and past frames, with zeros before the clip and around the picture."""

    def forward(self, x: Tensor, state: ClipState) -> Tensor:  # type: ignore[override]
        """Convolve x [B C T H W]."""
        return self.convolve(x, state)

    def convolve(self, x: Tensor, state: ClipState, silu: bool = False) -> Tensor:
        """Convolve x [B C T H W], or silu(x) with `silu`.

        Unlike `forward`, it frees x before it convolves, if the caller has no other reference to x.
        """
        kt, kh, kw = self.kernel_size
        is_first_frame, weight = state.is_first_frame(self, x), self.weight
        if kt > 1 or kh > 1:
            x = state.conv_input(self, x, rows=kh // 2, length=kt - 1, silu=silu)  # B C kt-1+T H+halo W+halo
        padding = (0, *state.shard.padding(kh // 2, kw // 2))
        if is_first_frame and kh > 1:  # only the last tap in time meets anything but zeros
            x, weight = x[:, :, -1:], weight[:, :, -1:]
        return F.conv3d(x, weight, self.bias, self.stride, padding)


class ResidualBlock(nn.Module):
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))); the shortcut is x itself unless the width changes."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(in_dim)
        self.conv1 = CausalConv3d(in_dim, out_dim, 3)
        self.norm2 = PixelNorm(out_dim)
        self.conv2 = CausalConv3d(out_dim, out_dim, 3)
        self.shortcut = CausalConv3d(in_dim, out_dim, 1) if in_dim != out_dim else None

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        # In one expression, because names would keep what comes between in memory.
        h = self.conv2.convolve(
            self.norm2(self.conv1.convolve(self.norm1(x), state, silu=True)), state, silu=True
        )
        h += x if self.shortcut is None else self.shortcut(x, state)
        return h


class Attention(nn.Module):
    """Single-head self-attention among the pixels of each frame, added to x.

    Each rank computes the queries of its own pixels and the keys and values of all ranks' pixels. The result is exact,
    and each rank does its share of the work.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = PixelNorm(dim)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        return x + self.project(self.attend(*self.queries_keys_values(x, state)), x)

    def queries_keys_values(self, x: Tensor, state: ClipState) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries of this rank's tokens, and the keys and values of all ranks' tokens, each [BT N C]."""
        c = x.shape[1]
        weight, bias = self.to_qkv.weight.flatten(1), self.to_qkv.bias
        assert bias is not None
        tokens = self.norm(_frame_by_frame(x)).flatten(2).transpose(1, 2)  # BT N C
        # Tokens travel, not keys and values: half as many bytes, and a 1x1 convolution of all of them is cheap.
        all_tokens = state.shard.all_gather_tokens(tokens)
        if all_tokens is tokens:
            q, k, v = F.linear(tokens, weight, bias).chunk(3, 2)
        else:
            q = F.linear(tokens, weight[:c], bias[:c])
            k, v = F.linear(all_tokens, weight[c:], bias[c:]).chunk(2, 2)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(C)) v, for q [BT N C] and k, v [BT M C]."""
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    def project(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Apply the last convolution to tokens [BT N C], and return them in the shape of x [B C T H W]."""
        batch, _, num_frames, height, width = x.shape
        pictures: Tensor = self.proj(tokens.transpose(1, 2).unflatten(2, (height, width)))  # BT C H W
        clip: Tensor = pictures.unflatten(0, (batch, num_frames)).transpose(1, 2)  # B C T H W
        return clip


class Downsample(nn.Module):
    """Halve the height and width; with `temporal` also the number of frames, after the clip's first."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2)
        self.time_conv = CausalConv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        batch, dim, num_frames, height, width = x.shape
        # The temporal convolution also needs the frame before x, which the state has kept.
        num_past = int(self.time_conv is not None and not state.first)
        halved = x.new_empty(batch, num_past + num_frames, height // 2, width // 2, dim).movedim(-1, 1)
        self.halve(x, state, out=halved[:, :, num_past:])
        if self.time_conv is None:
            return halved
        past = state.past_frames(self.time_conv, halved, 1)
        if num_past:
            halved[:, :, :1] = past
        past.copy_(halved[:, :, -1:])
        if halved.shape[2] == 1:  # the clip's first frame
            return halved
        # With stride 2, three taps make one frame of every pair of frames and the frame before the pair.
        pairs = F.conv3d(halved, self.time_conv.weight, self.time_conv.bias, self.time_conv.stride)
        return pairs if num_past else cat_channels_last((halved[:, :, :1], pairs), 2)

    def halve(self, x: Tensor, state: ClipState, out: Tensor) -> None:
        """Write the convolution in space of x [B C T H W] into out [B C T H/2 W/2].

        The picture is padded with zeros only below and at the right. To save a padded copy of x, the last row and the
        last column of `out` are computed apart, from small copies.
        """
        x, out = x.movedim(1, -1), out.movedim(1, -1)  # B T H W C
        bias = self.conv.bias
        assert bias is not None
        lower, right = state.shard.boundary_rows(x)
        pieces = (x, out[:, :, :-1, :-1]), (right, out[:, :, :-1, -1:]), (lower, out[:, :, -1:])
        for pixels, target in pieces:
            if target.numel():
                pixels = pixels.flatten(0, 1).movedim(-1, 1)  # BT C H W
                halved = F.conv2d(pixels, self.conv.weight, stride=self.conv.stride).movedim(
                    1, -1
                )  # BT H W C
                # Adding the bias also moves the result to where it belongs. On a GPU it takes a pass in any case.
                torch.add(halved.unflatten(0, x.shape[:2]), bias, out=target)


class Upsample(nn.Module):
    """Double the height and width; with `temporal` also the number of frames, after the clip's first."""

    def __init__(self, dim: int, out_dim: int, temporal: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3)
        self.time_conv = CausalConv3d(dim, dim * 2, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, state: ClipState, skip: Tensor | None = None) -> Tensor:
        """Upsample x [B C T H W]. `skip` [B C' T H W] is the input of Wan 2.2's shortcut, which is added."""
        if self.time_conv is not None:
            # The temporal convolution never sees the clip's first frame: later frames have zeros in its place.
            first, rest = x.split([1, x.shape[2] - 1], 2) if state.first else (x[:, :, :0], x)
            if rest.shape[2]:
                rest = self.time_conv(rest, state).movedim(1, -1).unflatten(4, (2, -1))  # B T H W 2 C
                rest = rest.permute(0, 1, 4, 2, 3, 5).flatten(1, 2).movedim(-1, 1)  # B C 2T H W
            x = cat_channels_last((first, rest), 2)
        dim, batch = state.shard.dim, x.shape[0]
        wide = state.shard.halo(x, 1, 1)
        pixels: Tensor = F.interpolate(_frame_by_frame(wide), scale_factor=2.0, mode="nearest-exact")
        if wide is not x:  # a neighbour's row has become two, of which the convolution needs the nearer one
            pixels = pixels.narrow(dim - 1, 1, pixels.shape[dim - 1] - 2)
        pixels = F.conv2d(pixels, self.conv.weight, self.conv.bias, padding=state.shard.padding(1, 1))
        pixels = pixels.unflatten(0, (batch, -1)).transpose(1, 2)  # B C T 2H 2W
        if skip is None:
            return pixels
        return add_duplicate_up(pixels, skip, 1 if self.time_conv is None else 2, 2, state)


def average_down(x: Tensor, out_dim: int, time: int, space: int, state: ClipState) -> Tensor:
    """Return Wan 2.2's shortcut around a downsampling level: [B out_dim T/time H/space W/space] from x [B C T H W].

    Blocks of time x space x space pixels are folded into channels, and groups of successive channels are averaged. The
    clip's first frame makes a block with zeros before it.
    """
    if time > 1 and state.first:
        x = F.pad(x, (0, 0, 0, 0, time - 1, 0))
    x = x.movedim(1, -1).unflatten(1, (-1, time)).unflatten(3, (-1, space)).unflatten(5, (-1, space))
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)  # B T/time H/space W/space C time space space
    if x.shape[4] * time == out_dim:
        # A group is the space x space pixels of one channel in one frame, so it need not be copied first.
        return x.mean((6, 7)).flatten(4).movedim(-1, 1)
    x = x.flatten(4).unflatten(4, (out_dim, -1))  # B T/time H/space W/space groups, channels of a group
    return x.mean(5).movedim(-1, 1)


def add_duplicate_up(x: Tensor, skip: Tensor, time: int, space: int, state: ClipState) -> Tensor:
    """Add Wan 2.2's shortcut around an upsampling level to x [B C T H W], in place.

    Each channel of skip [B C' T/time H/space W/space] is repeated, and the channels are unfolded into blocks of time x
    space x space pixels. The clip's first frame becomes only the last frame of its block.
    """
    pixels, skip = x.movedim(1, -1), skip.movedim(1, -1)  # B T H W C
    block, num_sources = time * space * space, skip.shape[4] // pixels.shape[4]
    for index in range(block):
        # In each block, pixel `index` of channel c comes from channel `c * num_sources + source` of skip.
        source = index * num_sources // block
        t, h, w = index // space**2, index // space % space, index % space
        num_left_out = 0  # frames of skip without this pixel
        if state.first:
            num_left_out, t = int(t < time - 1), (t + 1) % time
        pixels[:, t::time, h::space, w::space] += skip[:, num_left_out:, :, :, source::num_sources]
    return x


def _frame_by_frame(x: Tensor) -> Tensor:
    """B C T H W to BT C H W."""
    return x.transpose(1, 2).flatten(0, 1)
