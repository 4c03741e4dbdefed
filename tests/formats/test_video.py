"""Videos of many kinds are read frame by frame, fitted to the VAE, and refused in one sentence by their headers."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from wanvae_app.config import PRESETS
from wanvae_app.formats import ffmpeg as ffmpeg_module
from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.formats.video import MAX_FRAMES, describe_video, is_video, read_video
from wanvae_app.frame_log import FrameLog
from wanvae_app.page.compare import psnr

WAN, WAN_2_2 = PRESETS["wan2.1"], PRESETS["wan2.2"]


def ffmpeg(*arguments: str | Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


def pattern(path: Path, *options: str, size: str = "48x32", rate: int = 12, frames: int = 9) -> Path:
    """A moving test pattern; the options say how it is coded."""
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}", "-frames:v", str(frames), *options, path)
    return path


def frames_of(path: Path, folder: Path) -> np.ndarray:
    log = read_video(path, WAN, folder).frames
    return log.read(0, len(log))


KINDS = {
    "a.mp4": ("-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p"),
    "b.mov": ("-c:v", "mjpeg", "-q:v", "1", "-pix_fmt", "yuvj444p"),
    "c.webm": ("-c:v", "libvpx-vp9", "-crf", "4", "-b:v", "0", "-pix_fmt", "yuv444p"),
    "d.gif": (),
    "e.mkv": ("-c:v", "ffv1",),
    "f.avi": ("-c:v", "mjpeg", "-q:v", "1", "-pix_fmt", "yuvj444p"),
    "ten bits.mp4": ("-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p10le"),
    "with sound.mp4": ("-f", "lavfi", "-i", "sine=d=2", "-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p"),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_kinds(tmp_path: Path, name: str) -> None:
    options = KINDS[name]
    if "lavfi" in options:
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=48x32:r=12:d=0.75", *options, tmp_path / name)
    else:
        pattern(tmp_path / name, *options)
    path = (tmp_path / name).rename(tmp_path / "mislabelled.pt")
    plain = frames_of(pattern(tmp_path / "plain.mkv", "-c:v", "ffv1", "-pix_fmt", "bgr0"), tmp_path)
    assert is_video(path)
    video = read_video(path, WAN, tmp_path)
    assert (len(video.frames), video.frames.height, video.frames.width) == (9, 32, 48)
    assert video.fps == pytest.approx(12, rel=0.1) and video.fitted == ""
    assert psnr(video.frames, plain) > 22  # a GIF has 256 colours


def test_a_file_written_comes_back(tmp_path: Path) -> None:
    y, x = np.mgrid[0:32, 0:48]
    frames = np.stack([np.stack([4 * x + t, 6 * y, 255 - 2 * x - 2 * y], -1) for t in range(13)])
    log = FrameLog(32, 48, tmp_path)
    log.append(frames.clip(0, 255).astype(np.uint8))
    write_mp4(log, tmp_path / "a.mp4", 16.0)
    video = read_video(tmp_path / "a.mp4", WAN, None)
    assert video.fps == 16.0 and len(video.frames) == 13 and psnr(video.frames, log) > 38
    assert describe_video(tmp_path / "a.mp4", WAN) == (
        "Video, 48x32 pixels, 16 frames per second, 0.8 s: it will be encoded to a latent, then decoded again."
    )


def test_odd_sizes_are_cropped_in_the_middle_and_said(tmp_path: Path) -> None:
    """Coded without loss, so that what is left can be told exactly."""
    pixels = np.random.default_rng(1).integers(0, 255, (61, 43, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    path = tmp_path / "odd.mkv"
    ffmpeg("-loop", "1", "-framerate", "10", "-i", tmp_path / "p.png", "-frames:v", "7", "-c:v", "ffv1", path)
    video = read_video(path, WAN, tmp_path)
    assert video.fitted == (
        "The video was cropped from 43x61 to 40x56 and cut from 7 to 5 frames, as the VAE needs."
    )
    top, left = 2, 2
    assert np.array_equal(video.frames.read(0, 1)[0], pixels[top : top + 56, left : left + 40])
    assert "it will be cropped from 43x61 to 40x56, encoded" in describe_video(path, WAN)
    assert read_video(path, WAN_2_2, tmp_path).frames.height == 48  # multiples of 16


def test_larger_pictures_are_scaled_down(tmp_path: Path) -> None:
    path = pattern(
        tmp_path / "large.mp4", "-c:v", "libx264", "-preset", "ultrafast", size="2560x1440", frames=1
    )
    video = read_video(path, WAN, tmp_path)
    assert video.fitted.startswith(
        "The video was scaled from 2560x1440 to 1927x1084 and cropped from 1927x1084"
    )
    assert (video.frames.width, video.frames.height) == (1920, 1080)


def test_rotation(tmp_path: Path) -> None:
    """A telephone held upright: the pictures lie on their side, and the header says so."""
    lying = pattern(tmp_path / "lying.mp4", "-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p")
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", lying, "-c", "copy", turned)
    assert np.array_equal(frames_of(turned, tmp_path), np.rot90(frames_of(lying, tmp_path), 1, (1, 2)))


def test_uneven_timing_keeps_every_frame_once(tmp_path: Path) -> None:
    path = tmp_path / "uneven.mkv"
    uneven = ["-vf", "setpts=N*N/TB/30", "-fps_mode", "passthrough", "-c:v", "ffv1"]
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=5", "-frames:v", "9", *uneven, path)
    frames = frames_of(path, tmp_path)
    assert len(frames) == 9
    assert len({frame.tobytes() for frame in frames}) == 9


def test_grey_and_transparent_pictures(tmp_path: Path) -> None:
    grey = frames_of(pattern(tmp_path / "grey.mkv", "-pix_fmt", "gray", "-c:v", "ffv1"), tmp_path)
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 0], grey[..., 2])
    red = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    red.paste((255, 0, 0, 255), (0, 0, 8, 16))
    red.save(tmp_path / "half.gif", save_all=True, append_images=[red.transpose(Image.Transpose.ROTATE_180)])
    frames = frames_of(tmp_path / "half.gif", tmp_path)
    assert frames.shape == (1, 16, 16, 3) and (frames[0, :, :8] == (255, 0, 0)).all()


def test_a_recording_without_a_rate_or_length(tmp_path: Path) -> None:
    """As browsers record: nothing in the header but a clock of a thousand ticks a second."""
    path = tmp_path / "live.webm"
    with path.open("wb") as file:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i"]
        command += ["testsrc2=s=32x32:r=30:d=3", "-c:v", "libvpx", "-f", "webm", "-live", "1", "pipe:1"]
        subprocess.run(command, stdout=file, check=True)
    video = read_video(path, WAN, tmp_path)
    assert len(video.frames) == 89 and 1 <= video.fps <= 1000


def test_sound_may_be_longer_than_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    sound = ["-f", "lavfi", "-i", "sine=d=90"]
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=30:d=1", *sound, path)
    assert len(read_video(path, WAN, None).frames) == 29
    ffmpeg("-y", "-f", "lavfi", "-i", "testsrc2=s=32x32:r=30:d=40", *sound, path)
    with pytest.raises(ValueError, match="is too long"):
        describe_video(path, WAN)


@pytest.mark.parametrize("rate", [0.25, 240])
def test_a_video_keeps_its_pace(tmp_path: Path, rate: float) -> None:
    path = tmp_path / "pace.mp4"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=32x32:r={rate}", "-frames:v", "5", path)
    assert read_video(path, WAN, None).fps == pytest.approx(rate)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48,setsar=2", "-frames:v", "1", path)
    video = read_video(path, WAN, None)
    assert (video.frames.height, video.frames.width) == (
        48,
        128,
    ) and "scaled from 64x48 to 128x48" in video.fitted
    for lie in ("0", "1/1000", "1000"):
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=64x48,setsar={lie}", "-frames:v", "1", path)
        frames = read_video(path, WAN, None).frames
        assert (frames.height, frames.width) == (48, 64)


@pytest.mark.parametrize(("first", "second"), [("64x48", "128x96"), ("128x96", "64x48")])
def test_a_size_that_changes_midway(tmp_path: Path, first: str, second: str) -> None:
    """As recordings of calls do: every picture is shown whole, as large as the first."""
    parts = []
    for number, size in enumerate((first, second)):
        part = tmp_path / f"{number}.webm"
        ffmpeg("-f", "lavfi", "-i", f"smptebars=s={size}:r=9", "-frames:v", "9", "-c:v", "libvpx", part)
        parts.append(f"file {part.name}\n")
    (tmp_path / "list.txt").write_text("".join(parts))
    path = tmp_path / "both.webm"
    ffmpeg("-f", "concat", "-i", tmp_path / "list.txt", "-c", "copy", path)
    video = read_video(path, WAN, None)
    frames = video.frames.read(0, len(video.frames)).astype(int)
    assert len(frames) == 17 and f"{video.frames.width}x{video.frames.height}" == first
    assert abs(frames[0] - frames[-1]).mean() < 12, "the same picture, not a part of it"


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "harmed.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=128x96:r=25", "-frames:v", "49", "-c:v", "libx264", path)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat")
    for i in range(start + 2000, start + 2300, 7):
        content[i] ^= 0xFF
    path.write_bytes(content)
    assert read_video(path, WAN, None).fitted.endswith(
        "The file is damaged, and parts of its pictures are guessed."
    )


def patched(path: Path, where: bytes, offset: int, data: bytes) -> None:
    """Make a header lie."""
    content = bytearray(path.read_bytes())
    start = content.index(where) + offset
    content[start : start + len(data)] = data
    path.write_bytes(content)


def long(path: Path, rate: int = 25) -> None:
    """100,000 frames that are all alike."""
    ffmpeg("-f", "lavfi", "-i", f"color=s=16x16:r={rate}", "-frames:v", "300", "-c:v", "libvpx", path)
    with path.open("r+b") as file:
        content = file.read()
        at = content.index(b"\x44\x89\x88")  # the duration, a float64 in milliseconds
        file.seek(at + 3)
        file.write(struct.pack(">d", 100_000 / rate * 1000))


def no_frames(path: Path) -> None:
    pattern(path, "-c:v", "libx264", "-movflags", "empty_moov+frag_keyframe")
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"moof") - 4])


def cut(path: Path, *options: str) -> None:
    """A download that broke off."""
    pattern(path, *options, frames=48)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])


def wide_gif(path: Path) -> None:
    pattern(path)
    patched(path, b"GIF89a", 6, struct.pack("<HH", 16000, 16000))


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
    if "frames;" not in text and "no frames" not in text:  # which the header does not tell
        with pytest.raises(ValueError, match=expected):
            describe_video(path, WAN)


def test_a_header_that_hides_its_length(tmp_path: Path) -> None:
    """Decoding stops soon after the limit."""
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
        monkeypatch.setattr(ffmpeg_module.imageio_ffmpeg, "get_ffmpeg_exe", get_exe)
        for attempt in attempts:
            with pytest.raises(
                OSError, match="^Videos need ffmpeg, which is missing on the server; install it"
            ):
                attempt()
    assert is_video(path)


def test_folders_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    video = read_video(path, WAN, tmp_path / "gone")
    assert len(video.frames) == 9 and "kept in memory" in video.frames.warning
    with pytest.raises(OSError, match=r"ffmpeg could not write b\.mp4: .*No such file or directory"):
        write_mp4(video.frames, tmp_path / "gone" / "b.mp4", 16.0)
