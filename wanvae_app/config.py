"""The Wan VAE's shape as data: widths, scales, and the statistics of its latents."""

from __future__ import annotations

from dataclasses import dataclass

DTYPE_NAMES = ("bf16", "fp16", "fp32", "fp64")  # on the command lines; see `device.DTYPES`
# Mean and standard deviation of the latents, per channel. They are constants in the official code of Wan 2.1 and 2.2
# (the weights do not contain them), and stand in diffusers' config.json as well.
# fmt: off
MEAN_2_1 = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
STD_2_1 = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
MEAN_2_2 = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
STD_2_2 = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on


@dataclass(frozen=True)
class WanConfig:
    """One member of the Wan VAE family.

    The widths of the levels are `base_dim * m` for m in `dim_mult`. The decoder goes through them backwards. A pruned
    VAE states its widths one by one instead.
    """

    base_dim: int = 96
    decoder_base_dim: int = 96
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2  # per level of the encoder; the decoder has one more
    z_dim: int = 16
    temporal_downsample: tuple[bool, ...] = (False, True, True)  # one per level but the last
    residual: bool = False  # shortcuts without parameters around each level, in Wan 2.2
    patch_size: int = 1  # side of the square of pixels that are folded into channels before the encoder
    output_patch: int = 1  # the same after the decoder; larger than patch_size in decoders that upscale
    latents_mean: tuple[float, ...] = MEAN_2_1
    latents_std: tuple[float, ...] = STD_2_1
    in_channels: int = 3  # of a pixel that is encoded: red, green, blue, and perhaps alpha
    out_channels: int = 3  # of a decoded pixel
    has_encoder: bool = True
    has_decoder: bool = True
    # Widths that are no multiples of a base width; empty otherwise.
    encoder_widths: tuple[int, ...] = ()
    decoder_widths: tuple[int, ...] = ()
    upsampled_widths: tuple[int, ...] = ()

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """The encoder's width before its first level, then after each level."""
        return self.encoder_widths or tuple(self.base_dim * m for m in (1, *self.dim_mult))

    @property
    def decoder_dims(self) -> tuple[int, ...]:
        """The decoder's width before its first level, then after each level."""
        return self.decoder_widths or tuple(
            self.decoder_base_dim * m for m in (self.dim_mult[-1], *reversed(self.dim_mult))
        )

    @property
    def upsampled_dims(self) -> tuple[int, ...]:
        """The decoder's width after each upsampling step."""
        # Wan 2.1 halves the width in the upsampling convolution, 2.2 in the next level's first block.
        return self.upsampled_widths or tuple(
            width if self.residual else width // 2 for width in self.decoder_dims[1:-1]
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of all layers that the VAE has, except what encoder and decoder take in and put out."""
        encoder = self.encoder_dims if self.has_encoder else ()
        decoder = (*self.decoder_dims, *self.upsampled_dims) if self.has_decoder else ()
        return (*encoder, *decoder)

    @property
    def lack(self) -> str:
        """What a VAE without encoder or decoder cannot do, in a clause; "" for a whole one."""
        if not self.has_encoder:
            return "has no encoder: it decodes latents, and takes no video"
        return "" if self.has_decoder else "has no decoder: it encodes videos, and shows no frames"

    @property
    def spatial_factor(self) -> int:
        """Rows of pixels per latent row, in encoding."""
        return self.patch_size << len(self.temporal_downsample)

    @property
    def output_factor(self) -> int:
        """Rows of pixels per latent row, in decoding."""
        return self.output_patch << len(self.temporal_downsample)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame, but for the first, which holds one frame."""
        return 1 << sum(self.temporal_downsample)

    def num_frames(self, num_latents: int) -> int:
        """Frames that `num_latents` latent frames decode to."""
        return 1 + self.temporal_factor * (num_latents - 1)

    def num_latents(self, num_frames: int) -> int:
        """Latent frames that hold `num_frames` frames. Raises ValueError unless that is 1 + k * `temporal_factor`."""
        latents, rest = divmod(num_frames - 1, self.temporal_factor)
        if num_frames < 1 or rest:
            raise ValueError(
                f"{num_frames} frames cannot be encoded: the number must be 1 + {self.temporal_factor} k, "
                f"for instance {1 + self.temporal_factor * max(1, latents)}"
            )
        return 1 + latents


PRESETS = {
    "wan2.1": WanConfig(),
    "wan2.2": WanConfig(
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        temporal_downsample=(False, True, True),
        residual=True,
        patch_size=2,
        output_patch=2,
        latents_mean=MEAN_2_2,
        latents_std=STD_2_2,
    ),
}
