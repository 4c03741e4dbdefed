"""The sound of a video: cut to its frames, copied where the container can carry it, AAC elsewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from support.video_files import ffmpeg

from wanvae_app.formats.ffmpeg import ReadingStopped
from wanvae_app.formats.output_writer import write_output, write_with_sound
from wanvae_app.formats.outputs import OUTPUTS, find_output
from wanvae_app.formats.sound import extract_sound

RATE, NUM_FRAMES = 10, 10  # one second of frames
SAMPLES = 8000  # a second
FRAMES = np.zeros((NUM_FRAMES, 32, 48, 3), np.uint8)
# Silence but for a tone from 0.5 to 0.7 s, and another at 2 s.
TONE = r"0.5*sin(2*PI*1000*t)*(between(t\,0.5\,0.7)+between(t\,2\,2.2))"
MEDIUM = {".mp4": "aac", ".mkv": "flac", ".mov": "pcm_s16le", ".webm": "libopus"}


def film(folder: Path, suffix: str = ".mp4", delay: float = 0) -> Path:
    """A video of three seconds whose sound begins after `delay` seconds."""
    path = folder / f"film{suffix}"
    video = ["-f", "lavfi", "-i", f"testsrc2=s=48x32:r={RATE}:d=3"]
    sound = ["-itsoffset", str(delay), "-f", "lavfi", "-i", f"aevalsrc={TONE}:s=48000:d=3"]
    codec = ["-c:v", "libvpx"] if suffix == ".webm" else ["-c:v", "libx264"]
    ffmpeg(*video, *sound, *codec, "-c:a", MEDIUM[suffix], path)
    return path


def write(folder: Path, name: str, video: Path, start: float = 0, seconds: float = 1) -> tuple[Path, str]:
    """Write black frames with a video's sound; return the file, and the codec of its sound."""
    sound = extract_sound(video, folder / "sound.mka", start, seconds)
    assert sound is not None
    output = find_output(name)
    path = folder / f"a{output.suffix}"
    frames = FRAMES if output.frame_bits == 8 else FRAMES.astype(np.uint16)
    write_output(output, [frames], path, rate=RATE, sound=sound, num_frames=NUM_FRAMES)
    listing = ["-map", "0:a", "-c", "copy", "-f", "framecrc", "pipe:1"]
    return path, re.search(r"#codec_id 0: (\w+)", run(path, *listing).decode())[1]


def run(path: Path, *options: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), *options]
    return subprocess.run(command, capture_output=True, check=True).stdout


def loud(path: Path) -> tuple[float, float]:
    """When the file's sound is first and last loud, in seconds after its first frame."""
    # The silence that precedes a sound which begins later is filled in.
    raw = run(
        path,
        "-map",
        "0:a",
        "-af",
        "aresample=async=1:first_pts=0",
        "-ar",
        str(SAMPLES),
        "-ac",
        "1",
        "-f",
        "s16le",
        "pipe:1",
    )
    (places,) = np.nonzero(np.abs(np.frombuffer(raw, "<i2").astype(int)) > 3000)
    return places[0] / SAMPLES, places[-1] / SAMPLES


VIDEOS = [output.name for output in OUTPUTS if output.is_video]


@pytest.mark.parametrize("name", VIDEOS)
def test_sound_is_copied_into_a_container_that_carries_it(name: str, tmp_path: Path) -> None:
    path, codec = write(tmp_path, name, film(tmp_path))
    assert codec == "aac" and loud(path) == pytest.approx((0.5, 0.7), abs=0.03)


@pytest.mark.parametrize(
    ("name", "suffix", "expected"),
    [
        ("mp4", ".mkv", "flac"),
        ("mp4", ".webm", "opus"),
        ("mp4", ".mov", "aac"),
        ("prores", ".mov", "pcm_s16le"),
        ("prores", ".webm", "aac"),
        ("ffv1", ".webm", "opus"),
    ],
)
def test_sound_that_a_container_cannot_carry_becomes_aac(
    name: str, suffix: str, expected: str, tmp_path: Path
) -> None:
    path, codec = write(tmp_path, name, film(tmp_path, suffix))
    assert codec == expected and loud(path) == pytest.approx((0.5, 0.7), abs=0.03)


def test_sound_is_cut_to_the_frames(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "mp4", film(tmp_path), start=1.6)
    assert loud(path) == pytest.approx((0.4, 0.6), abs=0.04)


def test_sound_that_begins_later_stays_later(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "mp4", film(tmp_path, delay=0.25))
    assert loud(path) == pytest.approx((0.75, 0.95), abs=0.03)


def test_a_video_without_sound_has_none(tmp_path: Path) -> None:
    silent = tmp_path / "silent.mp4"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=48x32:r={RATE}:d=1", silent)
    assert extract_sound(silent, tmp_path / "sound.mka", 0, 1) is None
    assert extract_sound(film(tmp_path), tmp_path / "sound.mka", 60, 1) is None
    assert not (tmp_path / "sound.mka").exists()


def test_sound_that_cannot_be_had_is_one_sentence(tmp_path: Path) -> None:
    path = film(tmp_path, ".mov")
    with pytest.raises(ValueError, match=r"^The sound of film\.mov cannot be read: [^\n]+\.$"):
        extract_sound(path, tmp_path / "gone" / "sound.mka", 0, 1)


def test_damaged_sound_costs_the_sound_alone(tmp_path: Path) -> None:
    sound = extract_sound(film(tmp_path), tmp_path / "sound.mka", 0, 1)
    assert sound is not None
    sound.path.write_bytes(sound.path.read_bytes()[:200])
    path = tmp_path / "a.mp4"
    problem = write_with_sound(find_output("mp4"), lambda: iter([FRAMES]), path, sound=sound, rate=RATE)
    assert re.fullmatch(r"The file has no sound: ffmpeg could not write a\.mp4: [^\n]+\.", problem)
    assert len(run(path, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1")) == FRAMES.nbytes


def test_reading_sound_stops(tmp_path: Path) -> None:
    video, asked = film(tmp_path), [0, 0, 1]
    with pytest.raises(ReadingStopped):
        extract_sound(video, tmp_path / "sound.mka", 0, 1, stopped=lambda: not asked or asked.pop(0))
    assert not (tmp_path / "sound.mka").exists()


def test_sound_does_not_outlast_the_frames(tmp_path: Path) -> None:
    """A stopped run has fewer frames than its source."""
    path, _ = write(tmp_path, "mp4", film(tmp_path), seconds=3)
    assert loud(path) == pytest.approx((0.5, 0.7), abs=0.03)
