"""For notebooks: frames shown while they are decoded, clips played, and the page itself in a cell.

    from wanvae_app import notebook

    frames = notebook.watch(vae.decode_stream(latent, scaling="normalised"), num_frames=17)

Needs no widgets. Where there is no notebook, sentences are printed instead.
"""

from wanvae_app.notebook.clips import play
from wanvae_app.notebook.frame_strip import watch
from wanvae_app.notebook.running_app import RunningApp, launch

__all__ = ["RunningApp", "launch", "play", "watch"]
