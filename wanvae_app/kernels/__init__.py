"""Kernels: tensors in, tensors out. They know no layer, and communicate only with whom `mailbox.Neighbours` names.

`launchers` and `transform` start those in Triton, `winograd` and `upsample_conv` those in CUDA C++ for Hopper GPUs.
These four and `attention` need Triton to be imported; the rest of the folder does not.
"""
