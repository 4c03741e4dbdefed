"""Video headers: size, rate and number of frames, from what ffmpeg lists of a file's packets.

ffmpeg's messages for people also state these, between titles and comments of the file, which can state anything. They
are not read. What is read is the listing that ffmpeg's muxer "framecrc" writes: numbers only.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from wanvae_app.formats import ffmpeg
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.packet_listing import PacketListing, Size

MAX_INPUT_SIDE = 8192  # pixels of a picture's width or height
MAX_INPUT_PIXELS = 2**25  # of a picture; 7680x4320 has a little fewer
HEADER_TIMEOUT = 60.0  # seconds
FRAME_TIMEOUT = 10.0  # seconds for decoding one frame, which is done to learn how it is turned
HEADER_LIMITS = Limits(cpu_seconds=20, memory_bytes=2**31)
PIECE = 2**16  # bytes of a listing that are read at once
MAX_LISTING = 2**21  # bytes of a listing; 1,001 packets take about 70 KB
CONTAINERS_THAT_TURN = ("mov", "matroska")


@dataclass(frozen=True)
class VideoHeader:
    """What a file's structure says about its pictures. Both sizes are those of upright pictures, after rotation."""

    size: Size
    display_size: Size  # with square pixels
    num_frames: (
        int | None
    )  # by its packets, at most about the limit that was asked for; None if they cannot be listed
    fps: float | None

    @property
    def seconds(self) -> float | None:
        """The length of what is shown."""
        return self.num_frames / self.fps if self.fps and self.num_frames is not None else None


def find_container(path: Path) -> str | None:
    """ffmpeg's name for the file's container, from its first bytes; None unless it is a video container.

    ffmpeg opens files with this demuxer alone. Others, such as those for playlists, open further files.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "avi" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


def input_command(path: Path, *options: str) -> list[str]:
    """An ffmpeg command line that reads the file, with options for its input; arguments for the output may follow.

    Raises ValueError, with one sentence, if the file is no video; OSError if there is no ffmpeg.
    """
    container = find_container(path)
    if container is None:
        raise ValueError(f"{path.name} is not a video (.mp4, .mov, .webm, .gif) by its content.")
    arguments = ["-nostdin", "-loglevel", "error", "-protocol_whitelist", "file,pipe", *options]
    return ffmpeg.command(*arguments, "-f", container, "-i", f"file:{path.resolve()}")


def read_header(
    path: Path, min_side: int, max_frames: int, is_stopped: StopCheck | None = None
) -> VideoHeader:
    """Read a video's header, and count its frames without decoding them.

    Raises ValueError, with one sentence, for a file that is no video, is damaged, has sides under `min_side` or over
    MAX_INPUT_SIDE pixels, or has more than `max_frames` frames; OSError if there is no ffmpeg; ReadingStopped once
    `is_stopped` returns true.
    """
    packets = _list(path, ["-map", "0:v:0", "-c", "copy", "-copyinkf"], max_frames + 1, is_stopped)
    if packets.is_hung:
        raise ValueError(f"{path.name} cannot be read: ffmpeg found no end in it.")
    if not packets.is_there:
        sound = _list(path, ["-map", "0:a:0", "-c", "copy", "-frames:a", "1"], 1, is_stopped)
        if sound.is_there:
            raise ValueError(f"{path.name} has sound but no pictures; give a video.")
        raise ValueError(f"{path.name} is damaged or cut off: no video was found in it.")
    if packets.is_whole and not packets.starts:
        raise ValueError(f"{path.name} has no frames; give a video with at least one.")
    size = packets.size
    limit = f"at most {MAX_INPUT_SIDE} on a side and {MAX_INPUT_PIXELS} in all are taken"
    if min(size) < 1:
        raise ValueError(f"{path.name} has pictures of no size that can be read; {limit}.")
    if max(size) > MAX_INPUT_SIDE or size.width * size.height > MAX_INPUT_PIXELS:
        raise ValueError(f"{path.name} is {size} pixels; {limit}.")
    is_turned = bool(packets.starts) and _is_turned(path, size, is_stopped)
    if is_turned:
        size = Size(size.height, size.width)
    if min(size) < min_side:
        raise ValueError(f"{path.name} is {size} pixels; this VAE needs at least {min_side}x{min_side}.")
    if len(packets.starts) > max_frames:
        raise too_long(path, max_frames)
    return VideoHeader(
        size,
        _display_size(size, is_turned, packets.pixel_aspect),
        len(packets.starts) if packets.is_whole else None,
        packets.rate(),
    )


def too_long(path: Path, max_frames: int) -> ValueError:
    """The ValueError for a video of more than `max_frames` frames."""
    return ValueError(f"{path.name} is too long: at most {max_frames} frames are taken; cut it shorter.")


def _is_turned(path: Path, size: Size, is_stopped: StopCheck | None) -> bool:
    """Whether ffmpeg turns the file's pictures of this size onto their side, by the size of the first decoded one."""
    if find_container(path) not in CONTAINERS_THAT_TURN or size.width == size.height:
        return False
    one_frame = ["-map", "0:v:0", "-frames:v", "1"]
    return _list(path, one_frame, 1, is_stopped, FRAME_TIMEOUT).size == (size.height, size.width)


def _display_size(size: Size, is_turned: bool, pixel_aspect: Fraction) -> Size:
    """The size with square pixels. `pixel_aspect` is that of the stored pictures, which may lie on their side."""
    if not Fraction(1, 4) <= pixel_aspect <= 4:  # no camera's
        return size
    if is_turned:
        return Size(size.width, round(size.height * pixel_aspect))
    return Size(round(size.width * pixel_aspect), size.height)


def _list(
    path: Path,
    options: list[str],
    max_frames: int,
    is_stopped: StopCheck | None,
    timeout: float = HEADER_TIMEOUT,
) -> PacketListing:
    """List the packets, or decoded frames, of the file's stream that the options select, until `max_frames` are shown.

    Raises ValueError, OSError and ReadingStopped as read_header does.
    """
    command = input_command(path, "-threads", "1")
    listing = PacketListing()
    with ffmpeg.running(
        [*command, *options, "-f", "framecrc", "pipe:1"],
        stdout=subprocess.PIPE,
        limits=HEADER_LIMITS,
        timeout=timeout,
    ) as reader:
        rest, num_bytes = b"", 0
        while len(listing.starts) < max_frames and num_bytes < MAX_LISTING:
            data = reader.read(PIECE, is_stopped)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                listing.add(line.decode(errors="replace"))
            num_bytes += len(data)
            if len(data) < PIECE:
                listing.is_whole = reader.wait() == 0
                listing.is_hung = reader.is_hung
                break
    return listing
