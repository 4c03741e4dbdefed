"""The fast path for tests: on a GPU as it is, elsewhere in Triton's interpreter.

Import it after `pytest.importorskip("triton")`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.fast.choice import usable_kernels
from wanvae_app.fast.clip_state import FastClipState
from wanvae_app.fast.vae import FastVAE
from wanvae_app.kernels.kernel_set import KernelSet
from wanvae_app.kernels.packed_weights import PackedWeights
from wanvae_app.kernels.padded_frames import SlotTables
from wanvae_app.parallel.shard import WHOLE, Shard

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
# The interpreter computes in float32; on a GPU the error is bf16's rounding.
DTYPE, TOLERANCE = (torch.bfloat16, 4e-3) if GPU else (torch.float32, 2e-6)
# The sets of kernels that run here, best first; the interpreter runs those of Triton.
USABLE = usable_kernels(DEVICE).kernels if GPU else (KernelSet.DESCRIPTORS,)
KERNELS = USABLE[0] if USABLE else KernelSet.DESCRIPTORS
# Why no kernels run here; "" if some do.
UNSUPPORTED = "" if USABLE else usable_kernels(DEVICE).reason
# The same of those that read tiles by descriptors.
NO_DESCRIPTORS = (
    "" if KernelSet.DESCRIPTORS in USABLE else UNSUPPORTED or "this card has no tensor descriptors"
)


def fast_state(shard: Shard = WHOLE) -> FastClipState:
    """The state of a clip on the fast path."""
    return FastClipState(PackedWeights(), SlotTables(DEVICE), KERNELS, shard)


def fast_vae(config: WanConfig) -> FastVAE:
    """A VAE of this configuration on the fast path, with random weights, on the CPU in float32."""
    return FastVAE(config, kernels=KERNELS).requires_grad_(False)


def random(*shape: int) -> Tensor:
    """Normally distributed numbers in the dtype that the kernels are tested in."""
    return torch.randn(shape, device=DEVICE).to(DTYPE)
