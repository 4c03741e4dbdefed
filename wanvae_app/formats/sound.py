"""The sound of a video file, cut to the frames that were read of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from wanvae_app.formats import ffmpeg
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.untrusted_text import MAX_ERROR_LENGTH, printable
from wanvae_app.formats.video_input import input_command

TIMEOUT = 120.0  # seconds for taking the sound out of a file
BYTES_PER_SECOND = 2**20  # of sound: 8 channels of 32 bits at 32 kHz
OVERHEAD = 2**20  # bytes of a sound file besides
MAX_SOUND = 2**29  # bytes of a sound file
ADDRESS_SPACE = 2**31  # bytes
CPU_SECONDS = 120
# Output's "-ss 0" drops what lies before the range: demuxers seek to a frame of the pictures.
COPY = ("-map", "0:a:0", "-c:a", "copy", "-ss", "0")
AAC = ("-map", "0:a:0", "-c:a", "aac", "-b:a", "256k")
LISTING = ("-f", "framecrc", "pipe:1")
MAX_LISTING = 2**16  # bytes of the listing of one packet
# In the listing that ffmpeg's muxer "framecrc" writes; see packet_listing.py.
CODEC = re.compile(r"^#codec_id 0: (\w+)", re.MULTILINE)
PACKET = re.compile(r"^0, ", re.MULTILINE)


class Sound(NamedTuple):
    """A clip's sound: a Matroska file of one stream, which begins with the first frame, and its codec's name."""

    path: Path
    codec: str

    def input_arguments(self, seconds: float | None = None) -> tuple[str, ...]:
        """ffmpeg's arguments that open the file, of which `seconds` are read, or all.

        It stems from a visitor's file, so nothing else may be opened.
        """
        length = () if seconds is None else ("-t", f"{seconds:f}")
        return (*length, "-protocol_whitelist", "file", "-f", "matroska", "-i", f"file:{self.path}")


def extract_sound(
    video: Path, path: Path, start: float, seconds: float, *, stopped: StopCheck | None = None
) -> Sound | None:
    """Write the sound of `seconds` of a video file, from `start` seconds after its begin, to `path` (Matroska).

    The stream is copied, to a packet, which lasts about 20 ms; if Matroska cannot carry it, it becomes AAC. ffmpeg runs
    with limits, as the file is not trusted.

    Returns None if the file has no sound in this range. Raises ValueError, with a sentence, if its sound cannot be
    read; OSError if there is no ffmpeg; ReadingStopped once `stopped` returned true. No file is left then.
    """
    options = input_command(video, "-y", "-ss", f"{start:f}", "-t", f"{seconds:f}")
    codec, _ = _run([*options, *COPY, "-frames:a", "1", *LISTING], 0, stopped)
    if codec is None:
        return None
    limit = min(MAX_SOUND, int(seconds * BYTES_PER_SECOND) + OVERHEAD)
    problem, is_written = "", False
    try:
        for stream in (COPY, AAC):
            output = [*stream, "-f", "matroska", f"file:{path}"]
            listed = [*stream, "-frames:a", "1", *LISTING]
            written_codec, problem = _run([*options, *output, *listed], limit, stopped)
            if not problem and written_codec is not None:
                is_written = True
                return Sound(path, written_codec)
    finally:
        if not is_written:
            path.unlink(missing_ok=True)
    raise ValueError(f"The sound of {video.name} cannot be read: {printable(problem, MAX_ERROR_LENGTH)}.")


def _run(command: list[str], written_bytes: int, stopped: StopCheck | None) -> tuple[str | None, str]:
    """Run ffmpeg, which lists a packet on its output. Return the packet's codec, None without one; and the error."""
    limits = Limits(CPU_SECONDS, ADDRESS_SPACE, written_bytes=written_bytes)
    with ffmpeg.running(command, stdout=subprocess.PIPE, limits=limits, timeout=TIMEOUT) as reader:
        listing = reader.read(MAX_LISTING, stopped).decode(errors="replace")
        failed = reader.wait() != 0
        codec = CODEC.search(listing)
        is_there = codec is not None and PACKET.search(listing) is not None
        return codec[1] if codec is not None and is_there else None, reader.last_error() if failed else ""
