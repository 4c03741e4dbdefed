"""Where the kernels in CUDA C++ run."""

from __future__ import annotations

import pytest
import torch

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
DEVICE = torch.device("cuda" if HOPPER else "cpu")
needs_hopper = pytest.mark.skipif(not HOPPER, reason="the kernel needs a Hopper GPU")
