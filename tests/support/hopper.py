"""Where the kernels in CUDA C++ are to run: on the cards that the table of code paths gives them."""

from __future__ import annotations

import pytest
import torch

from wanvae_app.fast.choice import cards_of
from wanvae_app.kernels.kernel_set import KernelSet

CARDS = cards_of(torch.cuda.get_device_capability()) if torch.cuda.is_available() else None
HOPPER = CARDS is not None and KernelSet.HOPPER in CARDS.kernels
DEVICE = torch.device("cuda" if HOPPER else "cpu")
needs_hopper = pytest.mark.skipif(not HOPPER, reason="the kernel needs a Hopper GPU")
