"""Triton kernels for Hopper GPUs and later. `launchers` starts them; `wanvae_app.fused` decides where."""
