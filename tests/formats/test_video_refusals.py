"""Videos that cannot be used are refused in one sentence, where possible by their headers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest
from PIL import Image
from support.video_files import ffmpeg, pattern

from wanvae_app.config import PRESETS
from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.formats.video import MAX_FRAMES, describe_video, is_video, read_video

WAN = PRESETS["wan2.1"]


def overwrite(path: Path, after: bytes, data: bytes) -> None:
    """Replace the bytes that follow the first occurrence of `after`."""
    head, found, tail = path.read_bytes().partition(after)
    assert found, after
    path.write_bytes(head + found + data + tail[len(data) :])


def long(path: Path, rate: int = 25) -> None:
    """A video of one frame more than are taken, whose header states a length of a second."""
    ffmpeg("-f", "lavfi", "-i", f"color=s=16x16:r={rate}", "-frames:v", "1002", "-c:v", "libvpx", path)
    # The duration, a float64 in milliseconds
    overwrite(path, b"\x44\x89\x88", struct.pack(">d", 1000))


def no_frames(path: Path) -> None:
    pattern(path, "-c:v", "libx264", "-movflags", "empty_moov+frag_keyframe")
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"moof") - 4])


def cut(path: Path, *options: str) -> None:
    """A file that lacks its last 30 percent."""
    pattern(path, *options, frames=48)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])


def wide_gif(path: Path) -> None:
    pattern(path)
    overwrite(path, b"GIF89a", struct.pack("<HH", 16000, 16000))


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path, save_all=True, append_images=[Image.new("RGB", (1, 1), "red")])


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "text.mp4": (lambda path: path.write_text("no video"), "is not a video .* by its content"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "is not a video"),
    "playlist.mp4": (lambda path: path.write_text("#EXTM3U\nfile:///etc/passwd"), "is not a video"),
    "header.mp4": (lambda path: path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(99)), "damaged or cut off"),
    "header.webm": (lambda path: path.write_bytes(b"\x1a\x45\xdf\xa3" + bytes(99)), "damaged or cut off"),
    "header.gif": (lambda path: path.write_bytes(b"GIF89a"), "damaged or cut off"),
    "cut.mp4": (cut, "damaged or cut off: no video was found"),
    "cut early index.mp4": (lambda path: cut(path, "-movflags", "+faststart"), r"cut off after \d+ frames"),
    "cut.webm": (cut, r"cut off after \d+ frames"),
    "no frames.mp4": (no_frames, "has no frames"),
    "sound.mp4": (lambda path: ffmpeg("-f", "lavfi", "-i", "sine=d=1", path), "has sound but no pictures"),
    "sound.webm": (lambda path: ffmpeg("-f", "lavfi", "-i", "sine=d=1", path), "has sound but no pictures"),
    "one pixel.gif": (one_pixel, "is 1x1 pixels; this VAE needs at least 8x8"),
    "low.mp4": (lambda path: pattern(path, size="64x6"), "is 64x6 pixels; this VAE needs at least 8x8"),
    "wide.gif": (wide_gif, "is 16000x16000 pixels; at most 8192 on a side"),
    "large.mkv": (lambda path: pattern(path, "-c:v", "mjpeg", size="8192x6000", frames=1), "8192x6000 pixels; at"),
    "long.webm": (long, "is too long: at most 1001 frames are taken"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    make, expected = WRONG[name]
    path = tmp_path / name
    make(path)
    (tmp_path / "frames").mkdir()
    with pytest.raises(ValueError, match=expected) as refusal:
        read_video(path, WAN, tmp_path / "frames")
    text = str(refusal.value)
    assert text.startswith(name) and text.endswith(".") and "\n" not in text, text
    assert not list((tmp_path / "frames").iterdir())
    if "frames;" not in text and "no frames" not in text:  # the header does not tell these
        with pytest.raises(ValueError, match=expected):
            describe_video(path, WAN)


def test_a_header_that_hides_its_length(tmp_path: Path) -> None:
    """The frames are counted while they are decoded, and decoding stops at the limit."""
    path = tmp_path / "long.gif"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=16x16:r=50", "-frames:v", "60", path)
    assert len(read_video(path, WAN, tmp_path, 60).frames) == 57
    ffmpeg("-i", path, "-c:v", "ffv1", "-f", "matroska", "-live", "1", tmp_path / "live.mkv")
    with pytest.raises(ValueError, match="at most 40 frames are taken"):
        read_video(tmp_path / "live.mkv", WAN, tmp_path, 40)
    assert MAX_FRAMES == 1001


def test_ffmpeg_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264")
    log = read_video(path, WAN, tmp_path).frames
    attempts = (
        lambda: read_video(path, WAN, tmp_path),
        lambda: describe_video(path, WAN),
        lambda: write_mp4(log, tmp_path / "b.mp4", 16.0),
    )

    def not_found() -> str:
        raise RuntimeError("No ffmpeg exe could be found. Install ffmpeg on your system, or ...")

    for get_exe in (not_found, lambda: str(tmp_path / "missing"), lambda: str(path)):
        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", get_exe)
        for attempt in attempts:
            with pytest.raises(
                OSError, match="^Videos need ffmpeg, which is missing on the server; install it"
            ):
                attempt()
    assert is_video(path)
