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
from wanvae_app.formats.video_header import input_command

TIMEOUT = 120.0  # seconds for taking the sound out of a file
BYTES_PER_SECOND = 2**20  # of sound: 8 channels of 32 bits at 32 kHz
OVERHEAD = 2**20  # bytes of a sound file besides
MAX_SOUND = 2**29  # bytes of a sound file
ADDRESS_SPACE = 2**31  # bytes
MAX_LISTING = 2**16  # bytes of the listing of one packet
# In the listing that ffmpeg's muxer "framecrc" writes; see packet_listing.py.
CODEC = re.compile(r"^#codec_id 0: (\w+)", re.MULTILINE)
PACKET = re.compile(r"^0, ", re.MULTILINE)


class Sound(NamedTuple):
    """A clip's sound: a Matroska file of one stream, which begins with the first frame, and its codec's name."""

    path: Path
    codec: str

    def input_arguments(self) -> tuple[str, ...]:
        """ffmpeg's arguments that open the file. It stems from a visitor's file, so nothing else may be opened."""
        return ("-protocol_whitelist", "file", "-f", "matroska", "-i", f"file:{self.path}")


def extract_sound(
    video: Path, path: Path, start: float, seconds: float, *, stopped: StopCheck | None = None
) -> Sound | None:
    """Write the sound of `seconds` of a video file, from `start` seconds after its begin, to `path` (Matroska).

    The stream is copied, to a packet, which lasts about 20 ms; if Matroska cannot carry it, it becomes AAC. ffmpeg runs
    with limits, as the file is not trusted.

    Returns None if the file has no sound in this range. Raises ValueError, with a sentence, if its sound cannot be
    read; OSError if there is no ffmpeg; ReadingStopped once `stopped` returned true. No file is left then.
    """
    problem = ""
    for codec in ("copy", "aac"):
        listing, problem = _extract(video, path, start, seconds, codec, stopped)
        found = CODEC.search(listing)
        if found is None or not PACKET.search(listing):
            path.unlink(missing_ok=True)
            return None
        if not problem:
            return Sound(path, found[1])
    path.unlink(missing_ok=True)
    raise ValueError(f"The sound of {video.name} cannot be read: {printable(problem, MAX_ERROR_LENGTH)}.")


def _extract(
    video: Path, path: Path, start: float, seconds: float, codec: str, stopped: StopCheck | None
) -> tuple[str, str]:
    """Write the sound with a codec. Return the listing of its first packet, and why it failed, "" if it did not."""
    written = min(MAX_SOUND, int(seconds * BYTES_PER_SECOND) + OVERHEAD)
    command = input_command(video, "-y", "-ss", f"{start:f}", "-t", f"{seconds:f}")
    stream = ["-map", "0:a:0", "-c:a", codec]
    command += [*stream, "-f", "matroska", f"file:{path}"]
    command += [*stream, "-frames:a", "1", "-f", "framecrc", "pipe:1"]
    limits = Limits(int(TIMEOUT), ADDRESS_SPACE, written_bytes=written)
    with ffmpeg.running(command, stdout=subprocess.PIPE, limits=limits, timeout=TIMEOUT) as reader:
        listing = reader.read(MAX_LISTING, stopped)
        status = reader.wait()
        return listing.decode(errors="replace"), reader.last_error() if status != 0 else ""
