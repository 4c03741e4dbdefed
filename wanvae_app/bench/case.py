"""Case: one piece of work for the benchmark, such as decode:480x832x81."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from wanvae_app.codec import chunk_sizes
from wanvae_app.config import WanConfig


@dataclass(frozen=True)
class Case:
    """Decode or encode one clip."""

    kind: str  # "decode" or "encode"
    height: int  # in pixels
    width: int
    num_frames: int
    latent: Path | None = None  # the file whose latent is decoded; None for a random one

    @classmethod
    def parse(cls, text: str, config: WanConfig, latent: Path | None = None) -> Case:
        """Read a case such as decode:480x832x81. Raises ValueError if this VAE cannot code it."""
        found = re.fullmatch(r"(decode|encode):(\d+)x(\d+)x(\d+)", text)
        if found is None:
            raise ValueError(
                f"{text!r} is no case; write KIND:HEIGHTxWIDTHxFRAMES, such as decode:480x832x81."
            )
        case = cls(found[1], int(found[2]), int(found[3]), int(found[4]), latent)
        if not (config.has_decoder if case.kind == "decode" else config.has_encoder):
            raise ValueError(f"{text}: this VAE {config.lack}.")
        config.num_latents(case.num_frames)
        if case.height % config.spatial_factor or case.width % config.spatial_factor:
            raise ValueError(f"{text}: height and width must be multiples of {config.spatial_factor}.")
        return case

    def latent_shape(self, config: WanConfig) -> tuple[int, int, int, int, int]:
        """B C T H W of the whole latent."""
        scale = config.spatial_factor
        num_latents = config.num_latents(self.num_frames)
        return 1, config.z_dim, num_latents, self.height // scale, self.width // scale

    def sizes(self, config: WanConfig, chunk: int) -> list[int]:
        """Frames of each input chunk, for `chunk` latent frames at a time; latent frames if the case decodes."""
        sizes = chunk_sizes(config.num_latents(self.num_frames), chunk)
        if self.kind == "decode":
            return sizes
        return [config.num_frames(sizes[0]), *(config.temporal_factor * n for n in sizes[1:])]

    def __str__(self) -> str:
        return f"{self.kind} {self.height}x{self.width}x{self.num_frames}"
