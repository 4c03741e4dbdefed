"""The Wan VAE, decoded on all GPUs together and watched frame by frame in the browser.

    vae = wanvae_app.load_vae("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    frames = vae.decode(latent, scaling="normalised")

`wanvae_app.remote` is the client of an app on another machine. Importing this package imports neither PyTorch nor
Gradio: that takes seconds, and comes with the first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanvae_app import remote
    from wanvae_app.api.loaded_vae import LoadedVae, load_vae

__all__ = ["LoadedVae", "__version__", "load_vae", "remote"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "remote":
        return importlib.import_module("wanvae_app.remote")
    if name in __all__:
        return getattr(importlib.import_module("wanvae_app.api.loaded_vae"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
