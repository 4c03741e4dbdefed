"""MP4 files, written through ffmpeg."""

from __future__ import annotations

from pathlib import Path

from wanvae_app.formats.frame_writer import write_frames
from wanvae_app.frame_log import FrameLog

# 4:2:0 halves the colour samples in both directions, so sides must be even; a VAE's are multiples of 8.
TO_YUV = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p"
# Every player needs all four: below 720 lines, browsers take colours without them for those of old television. They
# are properties of the frames, because ffmpeg 9 ignores the encoder's options for primaries and transfer.
COLOUR_TAGS = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"


def write_mp4(frames: FrameLog, path: Path, fps: float) -> None:
    """Write all frames as H.264, nearly lossless, in 4:2:0 with BT.709 colours, limited range; players can start before
    the end.

    Height and width must be even. Raises OSError, with a sentence, if ffmpeg is missing or cannot write the file.
    """
    arguments = ["-vf", f"{TO_YUV},{COLOUR_TAGS}", "-c:v", "libx264", "-preset", "veryfast", "-crf", "14"]
    write_frames(frames, path, fps, [*arguments, "-movflags", "+faststart", "-f", "mp4"])
