"""What reading a video will take, known before it is read: the number of frames, their size, disk and memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wanvae_app.config import WanConfig
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.frame_range import ALL_FRAMES, FrameRange
from wanvae_app.formats.packet_listing import Size
from wanvae_app.formats.video_header import VideoHeader, read_header

MAX_FRAMES = 1001
MAX_PIXELS = 1920 * 1088  # of a picture; larger ones are scaled down
SCALED_PIXELS = 1920 * 1080  # of one that is scaled down, at most: 3840x2160 is halved
# ffmpeg keeps about 30 pictures: references, those of its threads, and those between decoder, scaler and output. A
# pixel takes 1.5 to 8 bytes. Measured with 8 threads: 40 bytes a pixel and 100 MB.
BYTES_PER_INPUT_PIXEL = 100
BYTES_PER_HDR_PIXEL = 150  # besides, of a scaled picture: its colours are computed as float32
BYTES_OF_FFMPEG = 2**28


@dataclass(frozen=True)
class VideoPlan:
    """Upper bounds of what read_video takes for a file. It reads no frame beyond them."""

    header: VideoHeader
    scaled: Size  # pictures are first scaled to this size,
    cropped: Size  # then cropped in the middle to this one
    num_frames_bound: int
    frames: FrameRange = ALL_FRAMES  # of the file

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
        size, scaled = self.header.size, self.scaled
        hdr = BYTES_PER_HDR_PIXEL * scaled.width * scaled.height if self.header.facts.hdr else 0
        return BYTES_OF_FFMPEG + BYTES_PER_INPUT_PIXEL * size.width * size.height + hdr

    @property
    def seconds(self) -> float | None:
        """The length of what is taken; None if it is not known."""
        fps = self.header.fps if self.header.num_frames is not None else None
        return self.num_frames_bound * self.frames.step / fps if fps else None

    def changes(self) -> list[str]:
        """The steps that change pictures, in words, and why."""
        changes, facts = [], self.header.facts
        if facts.is_interlaced:
            changes.append("deinterlaced")
        if facts.hdr:
            changes.append(f"tone-mapped from HDR ({facts.hdr}) to SDR")
        if (size := self.header.size) != self.scaled:
            changes.append(f"scaled from {size} to {self.scaled} ({self._why_scaled()})")
        if self.scaled != self.cropped:
            changes.append(f"cropped from {self.scaled} to {self.cropped}")
        return changes

    def remarks(self) -> list[str]:
        """Sentences about which frames are taken, and when they are shown."""
        header, remarks = self.header, []
        if header.source.num_orphans:
            remarks.append(
                f"Its first {header.source.num_orphans} frames build on one that is not in the file; they are left out."
            )
        if not self.frames.is_all:
            remarks.append(self.frames.sentence)
        if not header.is_even and header.fps:
            remarks.append(
                "Its frames come at uneven times; each is taken once, and all are shown equally long, at "
                f"{header.fps / self.frames.step:.4g} frames per second, their average."
            )
        return remarks

    def _why_scaled(self) -> str:
        size = self.header.display_size
        if size.width * size.height > MAX_PIXELS:
            return f"it has more than {MAX_PIXELS / 1e6:.1f} million pixels"
        if self.scaled != size:
            return "a side is shorter than the VAE takes"
        return "its pixels are not square"


def video_plan(
    path: Path,
    config: WanConfig,
    max_frames: int = MAX_FRAMES,
    *,
    frames: FrameRange = ALL_FRAMES,
    stopped: StopCheck | None = None,
) -> VideoPlan:
    """Plan the reading of these frames of a video file. Nothing but its packets is read, and one frame decoded.

    Raises:
        ValueError: the file cannot be read, or is too small, too large or too long; the message is one sentence.
        OSError: there is no ffmpeg.
        ReadingStopped: `stopped` returned true.
    """
    header = read_header(path, config.spatial_factor, max_frames, stopped, frames)
    num_frames = max_frames if header.num_frames is None else len(frames.within(header.num_frames))
    return VideoPlan(header, *_fit(header.display_size, config.spatial_factor), num_frames, frames)


def _fit(size: Size, factor: int) -> tuple[Size, Size]:
    """The sizes to scale and to crop to: at most MAX_PIXELS pixels, each side at least `factor` and a multiple."""
    scaled = Size(max(size.width, factor), max(size.height, factor))
    num_pixels = scaled.width * scaled.height
    if num_pixels > MAX_PIXELS:
        shrink = (SCALED_PIXELS / num_pixels) ** 0.5
        scaled = Size(max(factor, round(scaled.width * shrink)), max(factor, round(scaled.height * shrink)))
    return scaled, Size(scaled.width // factor * factor, scaled.height // factor * factor)
