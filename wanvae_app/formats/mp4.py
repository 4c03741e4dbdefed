"""MP4 files for the preview, written through ffmpeg."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from wanvae_app.formats.ffmpeg import FILE_TIMEOUT
from wanvae_app.formats.frame_writer import frame_batches
from wanvae_app.formats.output_writer import write_with_sound
from wanvae_app.formats.outputs import find_output
from wanvae_app.formats.sound import Sound
from wanvae_app.frame_log import FrameLog


def write_mp4(frames: FrameLog, path: Path, fps: Fraction | float, sound: Sound | None = None) -> str:
    """Write all frames that the log has now as H.264, nearly lossless, in 4:2:0 with BT.709 colours, limited range.

    Return "", or in a sentence why the file has no sound. Height and width must be even. Raises OSError, with a
    sentence, if ffmpeg is missing or cannot write the file.
    """
    return write_with_sound(
        find_output("mp4"),
        lambda: frame_batches(frames),
        path,
        rate=fps,
        sound=sound,
        timeout=FILE_TIMEOUT,
        num_frames=len(frames) if sound is not None else None,  # limits are for what a visitor's file holds
    )
