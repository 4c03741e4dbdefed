"""Kernels for Hopper GPUs and later. `launchers` starts those in Triton, `winograd` the one in CUDA C++;
`wanvae_app.fused` decides where. Both are None where PyTorch has no Triton."""

try:
    from wanvae_app.kernels import launchers, winograd
except ImportError:  # a build of PyTorch without Triton, or an old one
    launchers = winograd = None  # type: ignore[assignment]
