"""Kernels for Hopper GPUs and later. `launchers` starts those in Triton, `winograd` and `enlarge` those in CUDA C++;
`wanvae_app.fused` decides where. All are None where PyTorch has no Triton."""

try:
    from wanvae_app.kernels import enlarge, launchers, winograd
except ImportError:  # a build of PyTorch without Triton, or an old one
    enlarge = launchers = winograd = None  # type: ignore[assignment]
