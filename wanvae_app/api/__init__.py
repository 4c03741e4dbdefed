"""What programs use: VAEs that code whole clips, on all ranks. `wanvae_app` itself has these names."""
