"""Kernels: tensors in, tensors out. They know no layer, and talk only to whom `mailbox.Neighbours` names.

A file holds a kernel and the function that launches it:

- norm, transform: norm and SiLU, written into the padded frames that convolutions read
- direct_conv, with direct_results: causal convolutions as matrix products, in Triton
- mma_conv: all convolutions in CUDA C++, for every GPU since Ampere
- winograd, upsample_conv: faster convolutions in CUDA C++, for Hopper GPUs
- head, attention: the last convolution; attention with one wide head
- zero_frames, pixels: zeros into frames; numbers in [-1, 1] to uint8
- halo: rows and tokens from GPU to GPU, launched by `parallel/peer_memory.py`

Their data is described in padded_frames, packed_weights, shortcut and mailbox. `tiles` and `rounds` choose what a
program computes. `launch` starts every kernel in Triton, and `load_tile` is how they read tiles. `hopper_kernel`,
`mma_kernel`, `nvrtc` and `cuda_driver` compile and start CUDA C++. `kernel_set` names the sets of kernels, `capability`
what a card has, and `triton_support` whether Triton's kernels run on a device.

Shapes: T frames, H and W height and width of this rank's part of the picture, C channels in, N channels out. Pixels are
channels last, [T, H, W, C]. Given tensors without data (on the device "meta") a function allocates as it does
otherwise, and starts nothing.
"""
