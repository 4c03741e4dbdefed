"""Kernels for Hopper GPUs and later.

`launchers` starts those in Triton, `winograd` and `upsample_conv` those in CUDA C++; `wanvae_app.fast` decides where.
All are None where PyTorch has no Triton.
"""

try:
    from wanvae_app.kernels import launchers, upsample_conv, winograd
except ImportError:  # a build of PyTorch without Triton, or an old one
    launchers = upsample_conv = winograd = None  # type: ignore[assignment]
