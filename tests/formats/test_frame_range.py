"""Ranges of a video's frames: as people write them, and as they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.video_files import ffmpeg, pattern, small_gif

from wanvae_app.config import PRESETS
from wanvae_app.formats.frame_range import FrameRange
from wanvae_app.formats.video import describe_video, read_video
from wanvae_app.formats.video_plan import video_plan

WAN = PRESETS["wan2.1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", FrameRange()),
        ("1-500", FrameRange(0, 500)),
        (" 200 - ", FrameRange(199)),
        ("-80", FrameRange(0, 80)),
        ("7", FrameRange(6, 7)),
        ("1-2000/2", FrameRange(0, 2000, 2)),
        ("/3", FrameRange(step=3)),
    ],
)
def test_texts(text: str, expected: FrameRange) -> None:
    assert FrameRange.parse(text) == expected
    assert FrameRange.parse(str(expected)) == expected


def test_sentences() -> None:
    assert FrameRange(0, 500).sentence == "Frames 1 to 500 are taken."
    assert FrameRange(199, step=2).sentence == "Frames from 200 on are taken, one of every 2."


@pytest.mark.parametrize(
    "text",
    [
        "5..7",
        "0-3",
        "a",
        "9-3",
        "1-2/0",
        "1-3-5",
        "1-999999",
        "²",
        "--",
        "1/2/3",
        "9" * 40,
        pytest.param(f"1{' ' * 10**5}x", id="spaces"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*; give first and last, such as \"1-500\" or .*\.$"):
        FrameRange.parse(text)


H264 = ("-c:v", "libx264", "-bf", "2", "-g", "9")
KINDS: dict[str, tuple[str, ...]] = {
    "a.mp4": H264,
    "open.mkv": (*H264, "-x264-params", "open-gop=1:keyint=9"),
    "a.ts": H264,
    "a.avi": H264,  # which does not state when frames are shown
    "a.webm": ("-c:v", "libvpx-vp9", "-g", "9", "-lag-in-frames", "9", "-cpu-used", "8"),
    "open.mov": ("-c:v", "libx265", "-x265-params", "log-level=none:open-gop=1:keyint=9", "-tag:v", "hvc1"),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_frames_of_a_range(tmp_path: Path, name: str) -> None:
    """Decoding begins at a key frame shortly before, where the file says enough for that."""
    path = pattern(tmp_path / name, *KINDS[name], frames=41)
    assert (video_plan(path, WAN, frames=FrameRange(24)).header.source.seek is None) == (name == "a.avi")
    whole = read_video(path, WAN, None).frames.read(0, 41)
    for start in (17, 18, 19, 28):
        part = read_video(path, WAN, None, frames=FrameRange(start, start + 5)).frames.read(0, 5)
        assert np.array_equal(part, whole[start : start + 5]), start


@pytest.mark.parametrize("text", ["11-19", "4-40/4", "32-", "-5", "17"])
def test_what_is_said_of_a_range(tmp_path: Path, text: str) -> None:
    path = pattern(tmp_path / "a.mp4", *H264, frames=41)
    whole, chosen = read_video(path, WAN, None).frames, FrameRange.parse(text)
    numbers = chosen.within(41)
    expected = whole.read(0, 41)[list(numbers)]
    seen: list[tuple[int, int]] = []
    plan = video_plan(path, WAN, frames=chosen)
    video = read_video(path, WAN, None, frames=chosen, on_progress=lambda *progress: seen.append(progress))
    assert plan.num_frames_bound == len(numbers) and seen[-1] == (len(numbers), len(numbers))
    kept = len(video.frames)
    assert kept == 1 + (len(numbers) - 1) // 4 * 4
    assert np.array_equal(video.frames.read(0, kept), expected[:kept])
    assert video.fps == 12 / chosen.step and video.start == pytest.approx(chosen.start / 12)
    assert chosen.sentence in video.note and chosen.sentence in describe_video(path, WAN, chosen)


def test_more_frames_than_are_taken(tmp_path: Path) -> None:
    """A range of a long video is planned by its own frames; without one, the refusal says what to do."""
    path = small_gif(tmp_path / "long.gif", num_frames=3000, size=(16, 16))
    with pytest.raises(
        ValueError, match='at most 1001 frames are taken; choose a range of its frames, such as "1-1001"'
    ):
        video_plan(path, WAN)
    assert video_plan(path, WAN, frames=FrameRange(2000, 2500)).num_frames_bound == 500
    assert video_plan(path, WAN, frames=FrameRange(step=3)).num_frames_bound == 1000
    assert len(read_video(path, WAN, None, frames=FrameRange(2991)).frames) == 9
    with pytest.raises(ValueError, match=r"long\.gif is too long"):
        video_plan(path, WAN, frames=FrameRange(step=2))
    with pytest.raises(ValueError, match=r"long\.gif has 3000 frames, so none of 3001-3100 is there"):
        video_plan(path, WAN, frames=FrameRange(3000, 3100))


def test_a_range_of_interlaced_pictures(tmp_path: Path) -> None:
    """The pictures beside the range help to take its own apart."""
    path = tmp_path / "a.mkv"
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=50,tinterlace=interleave_top,setfield=tff"]
    ffmpeg(*source, "-frames:v", "13", "-c:v", "ffv1", path)
    whole = read_video(path, WAN, None).frames.read(0, 13)
    part = read_video(path, WAN, None, frames=FrameRange(4, 9)).frames.read(0, 5)
    assert np.array_equal(part, whole[4:9])
