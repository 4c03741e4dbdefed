"""What reading a video will take, known before it is read: the number of frames, their size, disk and memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wanvae_app.config import WanConfig
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.packet_listing import Size
from wanvae_app.formats.video_header import VideoHeader, read_header

MAX_FRAMES = 1001
MAX_PIXELS = 1920 * 1088  # of a picture; larger ones are scaled down
# ffmpeg keeps about 30 pictures: references, those of its threads, and those between decoder, scaler and output. A
# pixel takes 1.5 to 8 bytes. Measured with 8 threads: 40 bytes a pixel and 100 MB.
BYTES_PER_INPUT_PIXEL = 100
BYTES_OF_FFMPEG = 2**28


@dataclass(frozen=True)
class VideoPlan:
    """Upper bounds of what read_video takes for a file. It reads no frame beyond them."""

    header: VideoHeader
    scaled: Size  # pictures are first scaled to this size,
    cropped: Size  # then cropped in the middle to this one
    num_frames_bound: int

    @property
    def height(self) -> int:
        """Rows of the frames that are kept."""
        return self.cropped.height

    @property
    def width(self) -> int:
        """Columns of the frames that are kept."""
        return self.cropped.width

    @property
    def num_bytes_bound(self) -> int:
        """Bytes of the frames that are kept: of disk, or of memory if there is no folder for them."""
        return self.num_frames_bound * self.height * self.width * 3

    @property
    def num_memory_bytes_bound(self) -> int:
        """Bytes of memory that are taken while the file is read, besides the frames that are kept."""
        size = self.header.size
        return BYTES_OF_FFMPEG + BYTES_PER_INPUT_PIXEL * size.width * size.height

    def changes(self) -> list[str]:
        """The steps that change the size, in words, and why a picture is scaled."""
        changes = []
        if (size := self.header.size) != self.scaled:
            changes.append(f"scaled from {size} to {self.scaled} ({self._why_scaled()})")
        if self.scaled != self.cropped:
            changes.append(f"cropped from {self.scaled} to {self.cropped}")
        return changes

    def _why_scaled(self) -> str:
        size = self.header.display_size
        if size.width * size.height > MAX_PIXELS:
            return f"it has more than {MAX_PIXELS / 1e6:.1f} million pixels"
        if self.scaled != size:
            return "a side is shorter than the VAE takes"
        return "its pixels are not square"


def video_plan(
    path: Path, config: WanConfig, max_frames: int = MAX_FRAMES, *, stopped: StopCheck | None = None
) -> VideoPlan:
    """Plan the reading of a video file. Nothing but its packets is read, and one frame decoded.

    Raises:
        ValueError: the file cannot be read, or is too small, too large or too long; the message is one sentence.
        OSError: there is no ffmpeg.
        ReadingStopped: `stopped` returned true.
    """
    header = read_header(path, config.spatial_factor, max_frames, stopped)
    num_frames = max_frames if header.num_frames is None else header.num_frames
    return VideoPlan(header, *_fit(header.display_size, config.spatial_factor), num_frames)


def _fit(size: Size, factor: int) -> tuple[Size, Size]:
    """The sizes to scale and to crop to: at most MAX_PIXELS pixels, each side at least `factor` and a multiple."""
    scaled = Size(max(size.width, factor), max(size.height, factor))
    num_pixels = scaled.width * scaled.height
    if num_pixels > MAX_PIXELS:
        shrink = (MAX_PIXELS / num_pixels) ** 0.5
        scaled = Size(max(factor, round(scaled.width * shrink)), max(factor, round(scaled.height * shrink)))
    return scaled, Size(scaled.width // factor * factor, scaled.height // factor * factor)
