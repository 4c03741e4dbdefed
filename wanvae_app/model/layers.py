"""The Wan VAE's layers. B C T H W throughout; H and W are this rank's part of the picture.

Every layer that looks beyond its own pixel takes the clip's `ClipState` and asks it for past frames and
neighbours' rows. None of them knows how the clip is cut in time, or the picture in space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanvae_app.model.clip_state import ClipState
from wanvae_app.parallel.shard import joined


class CausalConv3d(nn.Conv3d):
    """A convolution over past and present frames; zeros before the clip and around the picture."""

    def forward(self, x: Tensor, state: ClipState) -> Tensor:  # type: ignore[override]
        kt, kh, kw = self.kernel_size
        begins = state.begins(self, x)
        x, weight = state.window(self, x, kt - 1, kh // 2), self.weight
        padding = (0, *state.shard.padding(kh // 2, kw // 2))
        if begins and kh > 1:  # zeros alone before it: one tap in time will do
            x, weight = x[:, :, -1:], weight[:, :, -1:]
        return F.conv3d(x, weight, self.bias, self.stride, padding)


class PixelNorm(nn.Module):
    """Each pixel's channels scaled to root mean square 1, times gamma; zeros stay zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [B C ...] to the same shape; half precisions are normalised in float32."""
        # The epsilon only keeps 0 / 0 away; Wan's own norm clamps the length at 1e-12.
        return F.rms_norm(x.movedim(1, -1), self.gamma.shape, self.gamma, eps=1e-24).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1x1 convolution on x where the width changes."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm1 = PixelNorm(in_dim)
        self.conv1 = CausalConv3d(in_dim, out_dim, 3)
        self.norm2 = PixelNorm(out_dim)
        self.conv2 = CausalConv3d(out_dim, out_dim, 3)
        self.shortcut = CausalConv3d(in_dim, out_dim, 1) if in_dim != out_dim else None

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        h: Tensor = self.conv1(F.silu(self.norm1(x)), state)
        h = self.conv2(F.silu(self.norm2(h)), state)
        return h + (x if self.shortcut is None else self.shortcut(x, state))


class Attention(nn.Module):
    """Single-head attention among the pixels of each frame, added to x.

    Each rank asks with its own pixels and is answered by everyone's: exact, for a share of the work.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = PixelNorm(dim)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        return x + self.project(self.attend(*self.queries_keys_values(x, state)), x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(C)) v, for q [B T, queries, C] and k, v [B T, keys, C]."""
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    def queries_keys_values(self, x: Tensor, state: ClipState) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B T, this rank's pixels, C], and keys and values [B T, all ranks' pixels, C], of x [B C T H W]."""
        c = x.shape[1]
        weight, bias = self.to_qkv.weight.flatten(1), self.to_qkv.bias
        assert bias is not None
        tokens = self.norm(_per_frame(x)).flatten(2).transpose(1, 2)  # BT tokens C
        # What keys and values are made of travels, which is half as much; to make them all costs next to nothing.
        seen = state.shard.all_gather_tokens(tokens)
        if seen is tokens:
            q, k, v = F.linear(tokens, weight, bias).chunk(3, 2)
        else:
            q = F.linear(tokens, weight[:c], bias[:c])
            k, v = F.linear(seen, weight[c:], bias[c:]).chunk(2, 2)
        return q, k, v

    def project(self, tokens: Tensor, x: Tensor) -> Tensor:
        """The last convolution of tokens [B T, pixels, C], as a picture of the shape of x [B C T H W]."""
        batch, _, num_frames, height, width = x.shape
        pictures: Tensor = self.proj(tokens.transpose(1, 2).unflatten(2, (height, width)))  # BT C H W
        clip: Tensor = pictures.unflatten(0, (batch, num_frames)).transpose(1, 2)
        return clip


def _per_frame(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)  # B C T H W -> BT C H W


class Downsample(nn.Module):
    """Half the height and width; with `temporal` half the frames too, but the clip's first stands alone."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2)
        self.time_conv = CausalConv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, state: ClipState) -> Tensor:
        batch, dim, num_frames, height, width = x.shape
        before = int(self.time_conv is not None and not state.first)  # the frame before these goes in front
        frames = x.new_empty(batch, before + num_frames, height // 2, width // 2, dim).movedim(-1, 1)
        self.halve(x, state, out=frames[:, :, before:])
        if self.time_conv is None:
            return frames
        past = state.last(self.time_conv, frames, 1)
        if before:
            frames[:, :, :1] = past
        past.copy_(frames[:, :, -1:])
        if frames.shape[2] == 1:
            return frames
        # Frames in pairs, each with the one before: the third tap falls on the second of the pair.
        pairs = F.conv3d(frames, self.time_conv.weight, self.time_conv.bias, self.time_conv.stride)
        return pairs if before else joined((frames[:, :, :1], pairs), 2)

    def halve(self, x: Tensor, state: ClipState, out: Tensor) -> None:
        """The convolution in space, of x [B C T H W] into out [B C T H/2 W/2]; zeros below and to the right of the
        picture.

        x is read as it lies: what looks beyond it, the last row and the last column, is convolved apart.
        """
        x, out = x.movedim(1, -1), out.movedim(1, -1)  # B T H W C
        bias = self.conv.bias
        assert bias is not None
        bottom, right = state.shard.boundary_rows(x)
        pieces = (x, out[:, :, :-1, :-1]), (right, out[:, :, :-1, -1:]), (bottom, out[:, :, -1:])
        for pixels, place in pieces:
            if place.numel():
                pixels = pixels.flatten(0, 1).movedim(-1, 1)  # BT C H W
                halved = F.conv2d(pixels, self.conv.weight, stride=self.conv.stride).movedim(1, -1)
                # The bias on the way to its place: a GPU adds it in a step of its own in any case.
                torch.add(halved.unflatten(0, x.shape[:2]), bias, out=place)


class Upsample(nn.Module):
    """Twice the height and width; with `temporal` twice the frames too, but the clip's first stands alone."""

    def __init__(self, dim: int, out_dim: int, temporal: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3)
        self.time_conv = CausalConv3d(dim, dim * 2, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, state: ClipState, skip: Tensor | None = None) -> Tensor:
        """The next frames of x enlarged, plus Wan 2.2's shortcut from `skip`, of x's size, where there is one."""
        if self.time_conv is not None:
            # The clip's first frame is not even past: those after it see zeros in its place.
            first, rest = x.split([1, x.shape[2] - 1], 2) if state.first else (x[:, :, :0], x)
            if rest.shape[2]:
                rest = self.time_conv(rest, state).movedim(1, -1).unflatten(4, (2, -1))  # B T H W 2 C
                rest = rest.permute(0, 1, 4, 2, 3, 5).flatten(1, 2).movedim(-1, 1)  # B C 2T H W
            x = joined((first, rest), 2)
        # A neighbour's row becomes two, of which the 3x3 convolution needs the nearer one.
        dim, batch = state.shard.dim, x.shape[0]
        wide = state.shard.halo(x, 1, 1)
        pixels: Tensor = F.interpolate(_per_frame(wide), scale_factor=2.0, mode="nearest-exact")
        if wide is not x:
            pixels = pixels.narrow(dim - 1, 1, pixels.shape[dim - 1] - 2)
        pixels = F.conv2d(pixels, self.conv.weight, self.conv.bias, padding=state.shard.padding(1, 1))
        pixels = pixels.unflatten(0, (batch, -1)).transpose(1, 2)
        if skip is None:
            return pixels
        return add_duplicate_up(pixels, skip, 1 if self.time_conv is None else 2, 2, state)


def average_down(x: Tensor, out_dim: int, time: int, space: int, state: ClipState) -> Tensor:
    """Wan 2.2's shortcut around a downsampling level: pixels of x [B C T H W] folded into channels, and groups of these
    averaged: [B out_dim T/time H/space W/space]. The clip's first frame stands alone."""
    if time > 1 and state.first:
        x = F.pad(x, (0, 0, 0, 0, time - 1, 0))  # the clip's first frame stands alone
    x = x.movedim(1, -1).unflatten(1, (-1, time)).unflatten(3, (-1, space)).unflatten(5, (-1, space))
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)  # B T H W C time space space
    # Mostly it is the pixels of one place and time that are averaged: then nothing needs to be moved first.
    alike = x.shape[4] * time == out_dim
    x = x.mean((6, 7)).flatten(4) if alike else x.flatten(4).unflatten(4, (out_dim, -1)).mean(5)
    return x.movedim(-1, 1)


def add_duplicate_up(x: Tensor, skip: Tensor, time: int, space: int, state: ClipState) -> Tensor:
    """x [B C T H W] plus Wan 2.2's shortcut around an upsampling level: the channels of skip [B C' T/time H/space
    W/space] repeated, then unfolded into pixels. The clip's first frame stands alone. x is overwritten.
    """
    pixels, skip = x.movedim(1, -1), skip.movedim(1, -1)  # B T H W C
    copies, channels = time * space * space, skip.shape[4] // pixels.shape[4]
    for copy in range(copies):
        t, h, w = copy // space**2, copy // space % space, copy % space
        late = 0
        if state.first:  # the clip's first frame stands alone: it has only the last of its copies in time
            t, late = (t + 1) % time, int(t < time - 1)
        pixels[:, t::time, h::space, w::space] += skip[:, late:, :, :, copy * channels // copies :: channels]
    return x
