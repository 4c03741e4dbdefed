"""Video headers: size, rate, colours and number of frames, from numbers that ffmpeg writes.

ffmpeg's messages for people also state these, between titles and comments of the file, which can state anything. They
are not read. What is read is the listing of packets (`packet_listing`), and the header of one decoded frame
(`frame_facts`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from wanvae_app.formats.ffmpeg import Ffmpeg, StopCheck
from wanvae_app.formats.frame_facts import HEADER_BYTES, OUTPUT, FrameFacts, parse_facts
from wanvae_app.formats.frame_range import ALL_FRAMES, FrameRange
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.packet_listing import Pace, PacketListing, Seek, Size, StreamListing
from wanvae_app.formats.pictures import count_pictures
from wanvae_app.formats.video_container import PICTURES, STILL_DEMUXERS, is_tiled_kind
from wanvae_app.formats.video_input import Pictures, check_container, reading

MAX_INPUT_SIDE = 8192  # pixels of a picture's width or height
MAX_INPUT_PIXELS = 2**25  # of a picture; 7680x4320 has a little fewer
HEADER_TIMEOUT = 60.0  # seconds
FRAME_TIMEOUT = 10.0  # seconds for decoding one frame
HEADER_LIMITS = Limits(cpu_seconds=20, memory_bytes=2**31)
PIECE = 2**16  # bytes of a listing that are read at once
MAX_LISTING = 2**21  # bytes of a listing of at most 1,001 frames, which takes about 70 KB
BYTES_PER_PACKET = 256  # of a longer listing, of several streams
# The tracks that players show, and those that are not pictures of an album.
DEFAULT_TRACKS, ALL_TRACKS = "0:V:disp:default", "0:V"
TILES = "[0:g:0]"  # a picture of tiles, put together
NO_TILES = "matches no streams"  # ffmpeg's error if there are none


@dataclass(frozen=True)
class Source:
    """Which stream of a file is decoded, and how ffmpeg is told."""

    stream: str = f"{ALL_TRACKS}:0"  # a stream specifier, or TILES
    num_orphans: int = 0  # packets before its first key frame, which are left out
    seek: Seek | None = None  # where decoding begins, if not at the first key frame
    pictures: Pictures | None = None  # of a zip or a folder

    def input_options(self) -> list[str]:
        """ffmpeg's options before the input."""
        num_left_out = self.seek.num_packets if self.seek else self.num_orphans
        return ["-bsf:v", rf"noise=drop=lt(n\,{num_left_out})"] if num_left_out else []

    def filtered(self, filters: str) -> list[str]:
        """ffmpeg's arguments that send the stream through filters."""
        if self.stream == TILES:
            return ["-filter_complex", f"{TILES}{filters}[v]", "-map", "[v]"]
        return ["-map", self.stream, "-vf", filters]


@dataclass(frozen=True)
class VideoHeader:
    """What a file's structure says about its pictures. Both sizes are those of upright pictures, after rotation."""

    size: Size
    display_size: Size  # with square pixels
    # By its packets, at most about as many as need to be known for the frames that were asked for; None if they cannot
    # be listed.
    num_frames: int | None
    fps: float | None  # of all frames
    is_even: bool  # whether they are shown equally long, as far as is known
    source: Source
    facts: FrameFacts  # of the first frame
    start: float | None  # seconds from the file's begin to the first frame that is taken; None of pictures


def read_header(
    path: Path,
    min_side: int,
    max_frames: int,
    is_stopped: StopCheck | None = None,
    frames: FrameRange = ALL_FRAMES,
) -> VideoHeader:
    """Read a video's header, and count its frames without decoding them.

    Raises ValueError, with one sentence, for a file that is no video, is damaged, has sides under `min_side` or over
    MAX_INPUT_SIDE pixels, or has more than `max_frames` frames in the range that is taken, or none; OSError if there
    is no ffmpeg; ReadingStopped once `is_stopped` returns true.
    """
    if check_container(path) == PICTURES:
        found = _find_pictures(path, is_stopped)
    else:
        found = _find_stream(path, frames.num_to_list(max_frames), is_stopped)
        found = replace(found, source=replace(found.source, seek=found.stream.seek(frames.start)))
    size = found.stream.size
    if min(size) < 1 and found.facts is not None:
        size = found.facts.size
    limit = f"at most {MAX_INPUT_SIDE} on a side and {MAX_INPUT_PIXELS} in all are taken"
    if min(size) < 1:
        raise ValueError(f"{path.name} has pictures of no size that can be read; {limit}.")
    if max(size) > MAX_INPUT_SIDE or size.width * size.height > MAX_INPUT_PIXELS:
        raise ValueError(f"{path.name} is {size} pixels; {limit}.")
    facts = found.facts or FrameFacts(size)
    is_turned = facts.size == (size.height, size.width) != size
    if is_turned:
        size = facts.size
    if min(size) < min_side:
        raise ValueError(f"{path.name} is {size} pixels; this VAE needs at least {min_side}x{min_side}.")
    num_taken = len(frames.within(found.num_frames))
    if num_taken > max_frames:
        raise too_long(path, max_frames)
    if found.is_known and not num_taken:
        raise ValueError(f"{path.name} has {found.num_frames} frames, so none of {frames} is there.")
    num_frames = found.num_frames if found.is_known else None
    display = _display_size(size, is_turned, found.stream.pixel_aspect)
    start = found.stream.start_of(frames.start) if found.pace.rate else None
    return VideoHeader(size, display, num_frames, *found.pace, found.source, facts, start)


def too_long(path: Path, max_frames: int) -> ValueError:
    """The ValueError for a video of more than `max_frames` frames."""
    return ValueError(
        f'{path.name} is too long: at most {max_frames} frames are taken; choose a range of its frames, such as "1-'
        f'{max_frames}", or cut it shorter.'
    )


@dataclass(frozen=True)
class _Found:
    """The stream that was chosen, and what is known of it."""

    source: Source
    stream: StreamListing
    num_frames: int  # that were listed
    is_known: bool  # whether these are all, or as many as need to be known
    pace: Pace
    facts: FrameFacts | None


def _find_pictures(path: Path, is_stopped: StopCheck | None) -> _Found:
    """What is known of the pictures in a zip or a folder. They have no times."""
    num_pictures, demuxer = count_pictures(path, is_stopped)
    source = Source(pictures=Pictures(range(1), demuxer))
    listing = _list(path, source, ALL_TRACKS, 1, is_stopped)
    if not listing.streams or min(listing.streams[0].size) < 1:
        raise ValueError(f"{path.name} is damaged: its first picture cannot be read.")
    facts = _first_frame(path, source, listing.streams[0].size, is_stopped)
    return _Found(source, listing.streams[0], num_pictures, True, Pace(None, True), facts)


def _find_stream(path: Path, num_frames: int, is_stopped: StopCheck | None) -> _Found:
    """Choose the stream of a file, of which `num_frames` frames need to be known. Raises as `read_header` does."""
    listing, tracks = PacketListing(), ""
    is_still = check_container(path) in STILL_DEMUXERS
    for tracks in (DEFAULT_TRACKS, ALL_TRACKS):
        listing = _list(path, Source(), tracks, 1 if is_still else num_frames, is_stopped)
        if listing.is_hung:
            raise ValueError(f"{path.name} cannot be read: ffmpeg found no end in it.")
        if listing.streams:
            break
    else:
        if _list(path, Source(), "0:a:0", 1, is_stopped).streams:
            raise ValueError(f"{path.name} has sound but no pictures; give a video.")
        raise ValueError(f"{path.name} is damaged or cut off: no video was found in it.")
    if is_tiled_kind(path) and (facts := _first_frame(path, Source(TILES), Size(1, 1), is_stopped)):
        return _Found(Source(TILES), StreamListing(size=facts.size), 1, True, Pace(None, True), facts)
    # A sequence in AVIF stands behind a still picture of it.
    moving = [number for number, stream in listing.streams.items() if stream.num_frames > 1]
    number = moving[0] if moving else min(listing.streams)
    stream = listing.streams[number]
    if listing.is_whole and not stream.num_frames:
        raise ValueError(f"{path.name} has no frames; give a video with at least one.")
    source = Source(f"{tracks}:{number}", stream.num_orphans)
    facts = _first_frame(path, source, stream.size, is_stopped) if stream.num_frames else None
    if is_still or (not moving and is_tiled_kind(path)):
        return _Found(source, stream, 1, True, Pace(None, True), facts)
    num_listed = stream.num_frames
    is_known = listing.is_whole or num_listed >= num_frames
    return _Found(source, stream, num_listed, is_known, stream.pace(), facts)


def _display_size(size: Size, is_turned: bool, pixel_aspect: Fraction) -> Size:
    """The size with square pixels. `pixel_aspect` is that of the stored pictures, which may lie on their side."""
    if not Fraction(1, 4) <= pixel_aspect <= 4:  # no camera's
        return size
    if is_turned:
        return Size(size.width, round(size.height * pixel_aspect))
    return Size(round(size.width * pixel_aspect), size.height)


def _first_frame(path: Path, source: Source, size: Size, is_stopped: StopCheck | None) -> FrameFacts | None:
    """Decode one frame; return what is known of it, None if it cannot be decoded or its `size` is too large.

    Of tiles, None says that there are none; raises ValueError, with one sentence, if they cannot be put together.
    """
    if max(size) > MAX_INPUT_SIDE or size.width * size.height > MAX_INPUT_PIXELS:
        return None
    options = ["-threads", "1", "-max_pixels", str(MAX_INPUT_PIXELS), *source.input_options()]
    output = [*source.filtered("null"), *OUTPUT, "pipe:1"]
    with reading(
        path, options, output, limits=HEADER_LIMITS, timeout=FRAME_TIMEOUT, pictures=source.pictures
    ) as reader:
        facts = parse_facts(reader.read(HEADER_BYTES, is_stopped))
        if facts is None and source.stream == TILES:
            _check_tiles(path, reader)
        return facts


def _check_tiles(path: Path, reader: Ffmpeg) -> None:
    """Raise ValueError, with one sentence, if ffmpeg has found tiles and could not put them together."""
    status = reader.wait()
    if reader.is_hung or status < 0:
        raise ValueError(f"{path.name} cannot be decoded: putting its tiles together takes too long.")
    if NO_TILES not in reader.error_output():
        raise ValueError(f"{path.name} is damaged: its tiles cannot be put together.")


def _list(
    path: Path, source: Source, streams: str, max_frames: int, is_stopped: StopCheck | None
) -> PacketListing:
    """List the packets of the streams that match the specifier, until one has shown `max_frames` frames.

    Raises ValueError, OSError and ReadingStopped as read_header does.
    """
    listing = PacketListing()
    output = ["-map", streams, "-c", "copy", "-copyinkf", "-f", "framecrc", "pipe:1"]
    max_bytes = MAX_LISTING + BYTES_PER_PACKET * max_frames
    with reading(
        path,
        ["-threads", "1"],
        output,
        limits=HEADER_LIMITS,
        timeout=HEADER_TIMEOUT,
        pictures=source.pictures,
    ) as reader:
        rest, num_bytes = b"", 0
        while listing.most_frames < max_frames and num_bytes < max_bytes:
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
