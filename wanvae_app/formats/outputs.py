"""The files that a clip's frames can be written to: one table, for the page, the API and the command line."""

from __future__ import annotations

from dataclasses import dataclass

OVERHEAD = 2**20  # bytes that a file may have besides its pictures

# 4:2:0 halves the colour samples in both directions, so sides must be even; a VAE's are multiples of 8.
TO_YUV = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int"
# Every player needs all four: below 720 lines, browsers take colours without them for those of old television. They
# are properties of the frames, because ffmpeg 9 ignores the encoder's options for primaries and transfer.
COLOUR_TAGS = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
FASTSTART = ("-movflags", "+faststart")  # players can start before the end


@dataclass(frozen=True)
class OutputFormat:
    """A kind of file, and how it is made."""

    name: str  # as the API and the command line call it
    label: str  # as the page calls it
    suffix: str  # of the file, with its dot
    purpose: str  # what it is for, in a sentence
    players: str  # what shows it, in a sentence
    bit_depth: int  # bits of a channel in the file
    frame_bits: int  # 8: made from uint8 frames; 16: from uint16 frames, of the VAE's float output
    is_exact: bool  # whether the frames can be read back as they were given
    has_alpha: bool  # whether it keeps a fourth channel; else that is left out
    growth: float  # largest size of a file per byte of the frames that it is made from
    video: tuple[str, ...] = ()  # ffmpeg's arguments
    video_with_alpha: tuple[str, ...] = ()  # the same for frames with alpha
    pictures: str = ""  # of a zip of pictures: their suffix
    min_side: int = 2  # pixels of a picture's height and width
    sound: frozenset[str] = frozenset()  # codecs that are copied; any other becomes AAC

    @property
    def is_video(self) -> bool:
        """Whether it is a video, which may have sound, and no zip of pictures."""
        return not self.pictures

    def num_bytes_bound(self, num_frames: int, height: int, width: int, num_channels: int = 3) -> int:
        """Bytes of disk that the file takes at most."""
        num_values = num_frames * height * width * num_channels
        return int(self.growth * num_values * self.frame_bits / 8) + OVERHEAD

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError, with a sentence, if pictures of this size are too small for the format."""
        if min(height, width) < self.min_side:
            limit = f"{self.label} takes pictures of {self.min_side} pixels a side or more"
            raise ValueError(f"{limit}, not {width}x{height}.")

    def to_json(self) -> dict[str, str | int | bool]:
        """The format's description as values that JSON can hold."""
        return {
            "name": self.name,
            "label": self.label,
            "suffix": self.suffix,
            "purpose": self.purpose,
            "players": self.players,
            "bit_depth": self.bit_depth,
            "exact": self.is_exact,
            "alpha": self.has_alpha,
        }


MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
MOV_SOUND = frozenset({"aac", "mp3", "ac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_f32le"})
MKV_SOUND = MP4_SOUND | MOV_SOUND | {"vorbis", "dts", "truehd", "mp2", "wavpack"}
MKV_PLAYERS = "VLC, mpv, DaVinci Resolve and ffmpeg show it; browsers and QuickTime do not."
# Its "cutree" crashes on pictures narrower than 56 pixels, and takes bits from what does not move.
X265_OPTIONS = "log-level=error:cutree=0"
FFV1 = ("-c:v", "ffv1", "-level", "3", "-slices", "4", "-g", "1")

OUTPUTS = (
    OutputFormat(
        "mp4",
        "MP4, H.264",
        ".mp4",
        "A preview, nearly lossless in brightness, with half the resolution in colour.",
        "Everything shows it.",
        8, 8, is_exact=False, has_alpha=False, growth=1.0, sound=MP4_SOUND,
        video=(
            "-vf", f"{TO_YUV},format=yuv420p,{COLOUR_TAGS}", "-c:v", "libx264", "-preset", "veryfast",
            "-crf", "14", *FASTSTART, "-f", "mp4",
        ),
    ),
    OutputFormat(
        "ffv1",
        "MKV, FFV1, lossless",
        ".mkv",
        "The frames bit for bit, in the smallest lossless file.",
        MKV_PLAYERS,
        8, 8, is_exact=True, has_alpha=True, growth=1.5, sound=MKV_SOUND,
        video=(*FFV1, "-pix_fmt", "bgr0", "-f", "matroska"),
        video_with_alpha=(*FFV1, "-pix_fmt", "bgra", "-f", "matroska"),
    ),
    OutputFormat(
        "h264-rgb",
        "MKV, H.264 RGB, lossless",
        ".mkv",
        "The frames bit for bit, for players without FFV1.",
        "VLC, mpv and ffmpeg show it; browsers, QuickTime and hardware decoders do not.",
        8, 8, is_exact=True, has_alpha=False, growth=2.0, sound=MKV_SOUND,
        video=(
            "-c:v", "libx264rgb", "-preset", "fast", "-qp", "0", "-pix_fmt", "bgr24", "-f", "matroska",
        ),
    ),
    OutputFormat(
        "ffv1-16",
        "MKV, FFV1, 16 bit",
        ".mkv",
        "What the VAE computed, before it is rounded to 8 bits, lossless.",
        MKV_PLAYERS,
        16, 16, is_exact=True, has_alpha=True, growth=1.5, sound=MKV_SOUND,
        video=(*FFV1, "-pix_fmt", "gbrp16le", "-f", "matroska"),
        video_with_alpha=(*FFV1, "-pix_fmt", "gbrap16le", "-f", "matroska"),
    ),
    OutputFormat(
        "h265",
        "MP4, H.265, 10 bit",
        ".mp4",
        "A small file without banding in skies, with half the resolution in colour.",
        "VLC, mpv, QuickTime, Safari and televisions show it; other browsers only with a hardware decoder.",
        10, 16, is_exact=False, has_alpha=False, growth=0.75, min_side=16, sound=MP4_SOUND,
        video=(
            "-vf", f"{TO_YUV},format=yuv420p10le,{COLOUR_TAGS}", "-c:v", "libx265", "-preset", "medium",
            "-crf", "12", "-x265-params", X265_OPTIONS, "-tag:v", "hvc1", *FASTSTART, "-f", "mp4",
        ),
    ),
    OutputFormat(
        "prores",
        "MOV, ProRes 4444",
        ".mov",
        "For editing and grading: 10 bit, full resolution in colour, every frame by itself.",
        "Premiere, Resolve, Final Cut, QuickTime, VLC and mpv show it; browsers do not, but for Safari.",
        10, 16, is_exact=False, has_alpha=True, growth=1.0, sound=MOV_SOUND,
        video=(
            "-vf", f"{TO_YUV},format=yuv444p10le,{COLOUR_TAGS}", "-c:v", "prores_ks", "-profile:v", "4444",
            "-vendor", "apl0", "-qscale:v", "4", "-f", "mov",
        ),
        video_with_alpha=(
            "-vf", f"{TO_YUV},format=yuva444p10le,{COLOUR_TAGS}", "-c:v", "prores_ks", "-profile:v", "4444",
            "-vendor", "apl0", "-qscale:v", "4", "-alpha_bits", "16", "-f", "mov",
        ),
    ),
    OutputFormat(
        "png",
        "ZIP of PNG pictures",
        ".zip",
        "The frames bit for bit, each a picture.",
        "Everything shows the pictures.",
        8, 8, is_exact=True, has_alpha=True, growth=1.25, pictures=".png",
    ),
    OutputFormat(
        "tiff",
        "ZIP of TIFF pictures, 16 bit",
        ".zip",
        "What the VAE computed, before it is rounded to 8 bits, each frame a picture.",
        "Photoshop, Affinity, GIMP, Resolve, After Effects and Nuke show the pictures; browsers do not.",
        16, 16, is_exact=True, has_alpha=True, growth=1.25, pictures=".tiff",
    ),
    OutputFormat(
        "exr",
        "ZIP of OpenEXR pictures, linear light",
        ".zip",
        "For compositing: the 16 bits of the VAE in linear light, as 32-bit floats.",
        "Nuke, Blender, After Effects, Resolve, Fusion and Photoshop show the pictures; browsers do not.",
        32, 16, is_exact=True, has_alpha=True, growth=2.5, pictures=".exr",
    ),
)  # fmt: skip


def find_output(name: str) -> OutputFormat:
    """Return the format of that name. Raises ValueError, with the names that exist, if there is none."""
    for output in OUTPUTS:
        if output.name == name:
            return output
    raise ValueError(f"There is no format {name!r}; choose one of {', '.join(o.name for o in OUTPUTS)}.")
