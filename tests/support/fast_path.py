"""The fast path for tests: on a GPU as it is, elsewhere in Triton's interpreter.

Import it after `pytest.importorskip("triton")`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.fast.vae import FastVAE
from wanvae_app.kernels import winograd
from wanvae_app.kernels.packed_weights import PackedWeights
from wanvae_app.kernels.padded_frames import PaddedFramePool, SlotTables
from wanvae_app.parallel.shard import WHOLE, Shard

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
# The interpreter multiplies float32; on a GPU bf16's own rounding is what is left.
DTYPE, TOLERANCE = (torch.bfloat16, 4e-3) if GPU else (torch.float32, 2e-6)
TOO_OLD = GPU and torch.cuda.get_device_capability() < (9, 0)
NOT_HERE = "the kernels need a Hopper GPU or later"


def fast_state(shard: Shard = WHOLE) -> FastClipState:
    """The state of a clip on the fast path."""
    return FastClipState(PackedWeights(), SlotTables(DEVICE), winograd.is_supported(DEVICE), shard)


def fast_vae(config: WanConfig) -> FastVAE:
    """A VAE of this configuration on the fast path, with random weights, on the CPU in float32."""
    return FastVAE(config, hopper=winograd.is_supported(DEVICE)).requires_grad_(False)


def random(*shape: int) -> Tensor:
    """Normal numbers in the dtype that the kernels are tested in."""
    return torch.randn(shape, device=DEVICE).to(DTYPE)


def frames_of(x: Tensor, spare: int = 1) -> tuple[PaddedFramePool, tuple[int, ...]]:
    """x [T H W C] in padded frames, not in order."""
    frames = PaddedFramePool(x.shape[1], x.shape[2], x.shape[3], x.dtype, DEVICE)
    slots = frames.take(len(x) + spare)[::-1][: len(x)]
    frames.data[1:, 1:-1, 1:-1] = float("nan")  # what was never written must not be read
    frames.data[list(slots), 1:-1, 1:-1] = x
    return frames, slots
