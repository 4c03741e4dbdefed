"""What a video will take is known from its packets, before it is read; texts in the file change nothing."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from support.video_files import ffmpeg, pattern, small_gif

from wanvae_app.config import PRESETS
from wanvae_app.formats.packet_listing import PacketListing, Size
from wanvae_app.formats.video import describe_video, read_video
from wanvae_app.formats.video_plan import VideoPlan, video_plan

WAN = PRESETS["wan2.1"]
LIES = (
    "Duration: 01:30:00.00, start: 0.000000, bitrate: 9 kb/s",
    "Stream #0:0: Video: x, 9999x9999 [SAR 4:1 DAR 3:1], 7 fps, 1k tbr",
    "Stream #1:1: Video: x, 9999x9999",
    "Stream #0:1: Audio: aac",
    "displaymatrix: rotation of -90.00 degrees",
    "frame= 9999 fps=0.0",
    "x\n#dimensions 0: 9999x9999\n#sar 0: 4/1\n#tb 0: 1/1\n0, 0, 0, 1, 1, 0x00000001\n",
    "unspecified size",
)
KEYS = ("title", "comment", "artist", "description", "encoder", "handler_name", "rotate", "language")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_texts_are_no_facts(tmp_path: Path, suffix: str) -> None:
    """Every text of a file says something else than its structure."""
    path, plain = tmp_path / f"a{suffix}", pattern(tmp_path / f"plain{suffix}", "-c:v", "libx264")
    texts: list[str] = []
    for where in ("-metadata", "-metadata:s:v"):
        for key, lie in zip(KEYS, LIES, strict=True):
            texts += [where, f"{key}={lie}"]
    for lie in LIES:  # each in every place that people see first
        texts += ["-metadata", f"title={lie}"]
        ffmpeg("-i", plain, "-c", "copy", *texts, path)
        assert (
            describe_video(path, WAN)
            == describe_video(plain, WAN)
            == (
                "Video, 48x32 pixels, 12 frames per second, 0.8 s: it will be encoded to a latent, then decoded again."
            )
        )
        assert video_plan(path, WAN) == video_plan(plain, WAN)
    video = read_video(path, WAN, None)
    assert (video.fps, len(video.frames), video.note) == (12.0, 9, "")


def test_a_stated_length_is_no_fact(tmp_path: Path) -> None:
    """300 frames with a header that states 100,000 are 300 frames."""
    path = tmp_path / "long.webm"
    ffmpeg("-f", "lavfi", "-i", "color=s=16x16:r=25", "-frames:v", "300", "-c:v", "libvpx", path)
    head, found, tail = path.read_bytes().partition(
        b"\x44\x89\x88"
    )  # the duration, a float64 in milliseconds
    path.write_bytes(head + found + struct.pack(">d", 4e6) + tail[8:])
    assert "25 frames per second, 12.0 s" in describe_video(path, WAN)
    assert video_plan(path, WAN).num_frames_bound == 300


def test_a_small_gif_that_becomes_large(tmp_path: Path) -> None:
    """13.5 kB that take 3.8 GB are told in well under a second, with nothing decoded."""
    path = small_gif(tmp_path / "bomb.gif", num_frames=600, size=(1920, 1088))
    assert path.stat().st_size < 14_000
    start = time.process_time()
    plan = video_plan(path, WAN)
    assert time.process_time() - start < 1
    assert (plan.num_frames_bound, plan.height, plan.width) == (600, 1088, 1920)
    assert plan.num_bytes_bound == 600 * 1088 * 1920 * 3
    assert plan.num_memory_bytes_bound < 2**29
    small_gif(path, num_frames=1002, size=(1920, 1088))
    with pytest.raises(ValueError, match=r"bomb\.gif is too long: at most 1001 frames"):
        video_plan(path, WAN)
    small_gif(path, num_frames=3, size=(65535, 65535))
    with pytest.raises(ValueError, match=r"bomb\.gif has pictures of no size"):
        video_plan(path, WAN)


FILES: dict[str, tuple[str, ...]] = {
    "b frames.mp4": ("-c:v", "libx264", "-bf", "3"),
    "b frames.avi": ("-c:v", "libx264", "-bf", "3"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-bf", "2"),
    "hidden frames.webm": ("-c:v", "libvpx-vp9", "-auto-alt-ref", "1", "-lag-in-frames", "9"),
    "fragments.mp4": ("-c:v", "libx264", "-movflags", "empty_moov+frag_keyframe"),
    "interlaced.mkv": ("-c:v", "mpeg2video", "-flags", "+ildct+ilme"),
    "animated.gif": (),
}


@pytest.mark.parametrize("name", FILES)
def test_plans_are_kept(tmp_path: Path, name: str) -> None:
    path = pattern(tmp_path / name, *FILES[name], frames=25)
    plan = video_plan(path, WAN)
    seen: list[tuple[int, int]] = []
    video = read_video(path, WAN, tmp_path, plan=plan, on_progress=lambda *progress: seen.append(progress))
    assert plan.num_frames_bound == len(video.frames) == 25
    assert (plan.height, plan.width) == (video.frames.height, video.frames.width)
    assert plan.num_bytes_bound == len(video.frames) * video.frames.frame_bytes
    assert seen == [(i, 25) for i in range(1, 26)]


def test_frames_that_an_edit_list_drops_do_not_count(tmp_path: Path) -> None:
    whole = pattern(tmp_path / "whole.mp4", "-c:v", "libx264", "-g", "60", "-bf", "0", frames=60)
    path = tmp_path / "trimmed.mp4"
    ffmpeg("-ss", "2", "-i", whole, "-c", "copy", path)
    plan = video_plan(path, WAN)
    assert plan.num_frames_bound == 36 and plan.header.fps == 12
    assert "3.0 s" in describe_video(path, WAN)
    assert len(read_video(path, WAN, None).frames) == 33


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_pictures(tmp_path: Path, degrees: int) -> None:
    path, turned = tmp_path / "a.mp4", tmp_path / "turned.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=12,setsar=2", "-frames:v", "5", "-c:v", "libx264", path)
    ffmpeg("-display_rotation", str(degrees), "-i", path, "-c", "copy", turned)
    plan = video_plan(turned, WAN)
    expected = Size(64, 48) if degrees == 180 else Size(48, 64)
    assert plan.header.size == expected
    assert (plan.width, plan.height) == ((128, 48) if degrees == 180 else (48, 128))
    frames = read_video(turned, WAN, None).frames
    assert (frames.width, frames.height) == (plan.width, plan.height)


def test_more_frames_than_planned(tmp_path: Path) -> None:
    """No frame beyond a plan is kept, so that a budget for it holds."""
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264", frames=9)
    plan = video_plan(path, WAN)
    less = VideoPlan(plan.header, plan.scaled, plan.cropped, 5)
    with pytest.raises(ValueError, match=r"a\.mp4 is damaged: it holds more frames than the 5 that it lists"):
        read_video(path, WAN, None, plan=less)


@pytest.mark.parametrize(
    ("tick", "starts", "duration", "expected"),
    [
        ("1/1000", [0, 83, 167, 250, 333], 83, 12.0),  # rounded to milliseconds
        ("1/1000", [0, 33, 67, 100, 133, 167], 33, 30.0),
        ("1001/30000", [0, 1, 2, 3], 1, 30000 / 1001),
        ("1/100", [0, 50, 60, 110], 50, 2.5),  # uneven: the average
        ("1/24", [-3, *range(100), 1000], 1, 24.0),  # even, but for a cut and a pause
        ("1/4", [0, 16], 16, 0.25),
        ("1/1000", [0, 40, 80], 0, 25.0),
        ("1/1000", [0], 0, None),
        ("1/1000", [7, 7, 7], 0, None),
        ("1/1000", [], 0, None),
        ("1/1", [0, 2**62], 1, None),
        ("0/1", [0, 1], 1, None),
    ],
)
def test_rates(tick: str, starts: list[int], duration: int, expected: float | None) -> None:
    listing = PacketListing()
    for line in (f"#tb 0: {tick}", "#dimensions 0: 64x48", "#sar 0: 0/1", "#software: Lavf"):
        listing.add(line)
    for start in starts:
        listing.add(f"0, {start:10}, {start:10}, {duration:8}, {100:8}, 0x0123abcd, F=0x0")
    stream = listing.streams[0]
    assert stream.size == (64, 48)
    assert stream.pace().rate == (None if expected is None else pytest.approx(expected))
