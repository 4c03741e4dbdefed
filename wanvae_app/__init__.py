"""The Wan VAE, decoded on all GPUs together and watched frame by frame in the browser."""
