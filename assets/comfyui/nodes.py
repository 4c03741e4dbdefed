"""The two nodes. ComfyUI's latents are {"samples": [B, C, T, H, W]}, its images [N, H, W, 3], floats in 0..1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import client

CATEGORY = "latent/wan remote"
ADDRESS = "http://127.0.0.1:7860"
SCALINGS = ["raw", "normalised"]  # ComfyUI's own latents are raw, WanVideoWrapper's are normalised
URL_INPUT = (
    "STRING",
    {
        "default": ADDRESS,
        "tooltip": "Where the app runs; http://user:password@host:7860 if it asks for a password.",
    },
)
SCALING_INPUT = (SCALINGS, {"tooltip": "raw: ComfyUI's own latents; normalised: WanVideoWrapper's."})
VAE_INPUT = ("STRING", {"default": "", "tooltip": "The name of one of the app's VAEs; empty: the first."})


class WanRemoteVAEDecode:
    """Decodes a latent on the server: "VAE Decode (Wan, remote)"."""

    DESCRIPTION = "Decodes a Wan latent on another machine, which runs the Wan VAE app."
    CATEGORY = CATEGORY
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the node's inputs, as ComfyUI asks for them."""
        return {
            "required": {"samples": ("LATENT",), "url": URL_INPUT, "scaling": SCALING_INPUT},
            "optional": {"vae": VAE_INPUT},
        }

    def decode(
        self, samples: dict[str, Tensor], url: str = ADDRESS, scaling: str = "raw", vae: str = ""
    ) -> tuple[Tensor]:
        """Return the frames of all clips of the batch, one after the other, [N, H, W, 3], floats in 0..1."""
        latents = samples["samples"]
        if latents.dim() == 4:  # pictures [B, C, H, W]
            latents = latents[:, :, None]
        if latents.dim() != 5:
            raise ValueError(f"A latent of Wan has the shape [B, C, T, H, W], not {list(latents.shape)}.")
        progress = _Progress(len(latents))
        images: Tensor | None = None
        num_done = 0
        for clip in latents:
            frames = client.decode(
                url,
                clip[None],
                scaling=scaling,
                vae=vae,
                on_progress=progress.of_clip,
                on_wait=_raise_interrupt,
            )
            try:
                for pixels in frames:
                    if images is None:
                        num_images = len(latents) * progress.num_steps
                        images = torch.empty(num_images, *pixels.shape[1:], dtype=torch.float32)
                    images[num_done] = torch.from_numpy(pixels[0]).float().div_(255)
                    num_done += 1
            finally:
                frames.close()  # stops the run on the server when the user interrupts
            progress.end_clip()
        assert images is not None
        return (images,)


class WanRemoteVAEEncode:
    """Encodes images on the server: "VAE Encode (Wan, remote)"."""

    DESCRIPTION = "Encodes images to a Wan latent on another machine, which runs the Wan VAE app."
    CATEGORY = CATEGORY
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the node's inputs, as ComfyUI asks for them."""
        return {
            "required": {"pixels": ("IMAGE",), "url": URL_INPUT, "scaling": SCALING_INPUT},
            "optional": {"vae": VAE_INPUT},
        }

    def encode(
        self, pixels: Tensor, url: str = ADDRESS, scaling: str = "raw", vae: str = ""
    ) -> tuple[dict[str, Tensor]]:
        """Return the latent of one clip of 4 k + 1 images, {"samples": [1, C, T, H, W]}, float32."""
        images = pixels[..., :3].mul(255).round_().clamp_(0, 255).to(torch.uint8)
        video: np.ndarray = images.cpu().numpy()
        progress = _Progress(1)
        samples = client.encode(
            url, video, scaling=scaling, vae=vae, on_progress=progress.of_clip, on_wait=_raise_interrupt
        )
        return ({"samples": samples},)


class _Progress:
    """ComfyUI's bar for several clips of equal length. Each step raises ComfyUI's own exception after an interrupt."""

    def __init__(self, num_clips: int) -> None:
        self.num_clips = num_clips
        self.num_steps = 0  # of one clip
        self._num_clips_done = 0
        self._bar: Any = None

    def of_clip(self, num_done: int, num_steps: int) -> None:
        """Show how far the present clip is."""
        _raise_interrupt()
        self.num_steps = num_steps
        if self._bar is None:
            self._bar = _new_bar(self.num_clips * num_steps)
        self._bar(self._num_clips_done * num_steps + num_done)

    def end_clip(self) -> None:
        """Go on to the next clip."""
        self._num_clips_done += 1


def _new_bar(num_steps: int) -> Callable[[int], object]:
    """Return a function that sets ComfyUI's bar; one that does nothing outside ComfyUI."""
    try:
        from comfy.utils import ProgressBar
    except ImportError:
        return lambda num_done: None
    update: Callable[[int], object] = ProgressBar(num_steps).update_absolute
    return update


def _raise_interrupt() -> None:
    """Raise ComfyUI's exception if the user has interrupted; do nothing outside ComfyUI."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
    except ImportError:
        return
    throw_exception_if_processing_interrupted()


NODE_CLASS_MAPPINGS = {"WanRemoteVAEDecode": WanRemoteVAEDecode, "WanRemoteVAEEncode": WanRemoteVAEEncode}
NODE_DISPLAY_NAME_MAPPINGS = {
    "WanRemoteVAEDecode": "VAE Decode (Wan, remote)",
    "WanRemoteVAEEncode": "VAE Encode (Wan, remote)",
}
