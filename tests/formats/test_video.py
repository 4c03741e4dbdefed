"""Videos of many kinds are read frame by frame and fitted to the sizes that the VAE takes."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from support.video_files import ffmpeg, pattern

from wanvae_app.config import PRESETS
from wanvae_app.formats.mp4 import write_mp4
from wanvae_app.formats.video import describe_video, is_video, read_video
from wanvae_app.frame_log import FrameLog
from wanvae_app.page.compare import psnr

WAN, WAN_2_2 = PRESETS["wan2.1"], PRESETS["wan2.2"]


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
    assert video.fps == pytest.approx(12, rel=0.1) and video.note == ""
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
    """The file is lossless, so the cropped pixels must be equal."""
    pixels = np.random.default_rng(1).integers(0, 255, (61, 43, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    path = tmp_path / "odd.mkv"
    ffmpeg("-loop", "1", "-framerate", "10", "-i", tmp_path / "p.png", "-frames:v", "7", "-c:v", "ffv1", path)
    video = read_video(path, WAN, tmp_path)
    assert video.note == (
        "The video was cropped from 43x61 to 40x56 and cut from 7 to 5 frames, as the VAE needs."
    )
    top, left = 2, 2
    assert np.array_equal(video.frames.read(0, 1)[0], pixels[top : top + 56, left : left + 40])
    assert "it will be cropped from 43x61 to 40x56, encoded" in describe_video(path, WAN)
    assert read_video(path, WAN_2_2, tmp_path).frames.height == 48  # multiples of 16


def test_larger_pictures_are_scaled_down(tmp_path: Path) -> None:
    path = pattern(
        tmp_path / "large.mp4", "-c:v", "libx264", "-preset", "ultrafast", size="3840x2160", frames=1
    )
    video = read_video(path, WAN, tmp_path)
    assert video.note == (
        "The video was scaled from 3840x2160 to 1920x1080 (it has more than 2.1 million pixels), as the VAE needs."
    )
    assert (video.frames.width, video.frames.height) == (1920, 1080)


def test_rotation(tmp_path: Path) -> None:
    """A telephone held upright stores pictures on their side, and the angle in the header."""
    sideways = pattern(tmp_path / "sideways.mp4", "-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p")
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", sideways, "-c", "copy", turned)
    assert np.array_equal(frames_of(turned, tmp_path), np.rot90(frames_of(sideways, tmp_path), 1, (1, 2)))


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
    """Browsers record such files. Their header states only a clock of 1,000 ticks a second."""
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
    ) and "scaled from 64x48 to 128x48 (its pixels are not square)" in video.note
    for lie in ("0", "1/1000", "1000"):
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=64x48,setsar={lie}", "-frames:v", "1", path)
        frames = read_video(path, WAN, None).frames
        assert (frames.height, frames.width) == (48, 64)


@pytest.mark.parametrize(("first", "second"), [("64x48", "128x96"), ("128x96", "64x48")])
def test_a_size_that_changes_midway(tmp_path: Path, first: str, second: str) -> None:
    """Recordings of calls do this. Every picture is scaled to the size of the first, none is cropped."""
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


def test_concealed_damage_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=128x96:r=25", "-frames:v", "49", "-c:v", "libx264", path)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat")
    for i in range(start + 2000, start + 2300, 7):
        content[i] ^= 0xFF
    path.write_bytes(content)
    assert read_video(path, WAN, None).note.endswith(
        "The file is damaged, and parts of its pictures are guessed."
    )


def test_folders_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    video = read_video(path, WAN, tmp_path / "gone")
    assert len(video.frames) == 9 and "kept in memory" in video.frames.warning
    with pytest.raises(OSError, match=r"ffmpeg could not write b\.mp4: .*No such file or directory"):
        write_mp4(video.frames, tmp_path / "gone" / "b.mp4", 16.0)
