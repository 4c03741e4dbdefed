"""Residual blocks on the fast path as on a Hopper GPU, with Winograd's kernel emulated in float64: which frames it is
given, chunk after chunk, whole and between neighbours.

python -m pytest tests/fast/test_conv_inputs.py
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.distance import distance
from support.grouped import run_group
from torch import Tensor

from wanvae_app.model.clip_state import ClipState
from wanvae_app.model.layers import ResidualBlock
from wanvae_app.parallel.process_group import Group
from wanvae_app.parallel.shard import WHOLE, Shard

pytest.importorskip("triton")  # none for this platform
from wanvae_app.fast import layers
from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.kernels import winograd
from wanvae_app.kernels.packed_weights import PackedWeights
from wanvae_app.kernels.padded_frames import SlotTables
from wanvae_app.kernels.winograd import POINTS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there the kernel itself runs: test_gpu.py")

# Frames: the clip's first alone, two at a time, four at a time, twice four, and back.
CHUNKS = (1, 2, 4, 8, 4, 2)


def emulated(
    weights: Tensor,
    bias: Tensor,
    frames: object,
    slots: tuple[int, ...],
    residual: Tensor | None = None,
    gamma: Tensor | None = None,
    into: object = None,
    in_place: bool = False,
    early_halo: object = None,
) -> Tensor:
    """`winograd.winograd_conv`, for blocks too wide to norm in place."""
    assert gamma is None and into is None
    data = frames.data[list(slots)].double().movedim(-1, 1)  # type: ignore[attr-defined]
    frames_per_tile = weights.shape[1] - 2
    kernels = weights.double().unflatten(0, (3, 3)).permute(2, 3, 4, 0, 1)
    a, b = POINTS
    out: list[Tensor] = []
    for start in range(0, len(slots) - 2 * (frames_per_tile == 2), 6 if frames_per_tile == 4 else 2):
        if frames_per_tile == 4:
            seen = list(data[start : start + 6])
        else:
            d = data[start : start + 4]
            seen = [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
        m = [F.conv2d(x[None], kernel)[0] for x, kernel in zip(seen, kernels, strict=True)]
        if frames_per_tile == 4:
            x, y, z, w = m[0] + m[1], m[0] - m[1], m[2] + m[3], m[2] - m[3]
            out += [x + z + m[4], a * y + b * w, a * a * x + b * b * z, a**3 * y + b**3 * w + m[5]]
        else:
            out += [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
    found = torch.stack(out).movedim(1, -1) + bias.double()
    if residual is not None:
        found += residual.double()
    return residual.copy_(found) if in_place and residual is not None else found.to(bias.dtype).contiguous()


def fast(group: Group | None, height: int, width: int) -> list[Tensor]:
    """Blocks on this rank's part of a clip, chunk by chunk; and first of all the dimension that is cut."""
    winograd.winograd_conv = emulated
    shard = Shard.plan(height, width, group.size, group.rank, group.data) if group is not None else WHOLE
    assert shard is not None
    blocks = some_blocks().half()
    state = FastClipState(PackedWeights(), SlotTables(torch.device("cpu")), True, shard)
    x = shard.part(clip(height, width).half()) if group is not None else clip(height, width).half()
    parts = [part.contiguous(memory_format=torch.channels_last_3d) for part in x.split(CHUNKS, 2)]
    with torch.no_grad():
        found = [layers.residual_blocks(list(blocks), part, state).float() for part in parts]
    return [torch.tensor(shard.dim), torch.cat(found, 2)]


def some_blocks() -> torch.nn.ModuleList:
    torch.manual_seed(1)
    return torch.nn.ModuleList([ResidualBlock(16, 256), ResidualBlock(256, 256)])  # type: ignore[return-value]


def clip(height: int, width: int) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(1, 16, sum(CHUNKS), height, width)


@pytest.mark.parametrize(("height", "width", "size"), [(4, 3, 2), (3, 7, 3)])
def test_blocks_equal_the_plain_ones(
    height: int, width: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, state = clip(height, width).double(), ClipState()
    with torch.no_grad():
        for block in some_blocks().double():
            expected = block(expected, state)
    monkeypatch.setattr(
        winograd, "winograd_conv", winograd.winograd_conv
    )  # so that what `fast` sets is undone
    _, alone = fast(None, height, width)
    assert distance(alone, expected) < 2e-3  # fp16's rounding
    parts = run_group(size, fast, height, width, timeout=240)
    together = torch.cat([part for _, part in parts], int(parts[0][0]))
    assert distance(together, alone) < 2e-4, "a rank reads other numbers beside its own than one alone"
