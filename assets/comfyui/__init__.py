"""ComfyUI nodes that decode and encode Wan latents on another machine, which runs the Wan VAE app.

Copy this folder into ComfyUI's custom_nodes, under any name.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
