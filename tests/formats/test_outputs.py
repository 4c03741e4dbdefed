"""Every output is read back and compared with the frames that it was made from."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import OpenEXR
import pytest
import tifffile
from PIL import Image

from wanvae_app.alpha import over_checkerboard
from wanvae_app.formats import output_writer
from wanvae_app.formats.frame_writer import WritingStopped, rate_text
from wanvae_app.formats.output_writer import write_output
from wanvae_app.formats.outputs import OUTPUTS, OutputFormat, find_output
from wanvae_app.formats.picture_archive import to_linear

HEIGHT, WIDTH, NUM_FRAMES = 48, 64, 5
READ_AS = {(8, 3): "rgb24", (8, 4): "rgba", (16, 3): "rgb48le", (16, 4): "rgba64le"}
# Peak signal-to-noise ratio of a smooth picture, in decibels.
MIN_PSNR = {"mp4": 44, "h265": 50, "prores": 54}


def clip(frame_bits: int, num_channels: int = 3) -> np.ndarray:
    """A moving gradient with a little noise, uint8 or uint16 [T H W C]."""
    t, y, x = np.mgrid[0:NUM_FRAMES, 0:HEIGHT, 0:WIDTH]
    channels = [(x + 2 * t) / 80, (y + t) / 60, (x + y) / 120, (2 * x + t) / 160][:num_channels]
    noise = np.random.default_rng(0).uniform(0, 0.004, (NUM_FRAMES, HEIGHT, WIDTH, num_channels))
    values = np.clip(np.stack(channels, -1) + noise, 0, 1)
    return np.rint(values * (2**frame_bits - 1)).astype(np.uint8 if frame_bits == 8 else np.uint16)


def batches(frames: np.ndarray) -> Iterator[np.ndarray]:
    """The frames as a decoder yields them: one, then the others."""
    yield frames[:1]
    yield frames[1:]


def read_video(path: Path, frame_bits: int, num_channels: int) -> np.ndarray:
    """All frames of a video, as BT.709 players show them."""
    pixel_format = READ_AS[frame_bits, num_channels]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path)]
    command += ["-sws_flags", "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"]
    command += ["-pix_fmt", pixel_format, "-f", "rawvideo", "pipe:1"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    dtype = np.uint8 if frame_bits == 8 else np.dtype("<u2")
    return np.frombuffer(raw, dtype).reshape(-1, HEIGHT, WIDTH, num_channels)


def read_picture(suffix: str, data: bytes, folder: Path) -> np.ndarray:
    """A picture of an archive; linear light of an EXR is left as it is."""
    if suffix == ".png":
        return np.asarray(Image.open(io.BytesIO(data)))
    if suffix == ".tiff":
        return tifffile.imread(io.BytesIO(data))
    path = folder / "frame.exr"
    path.write_bytes(data)
    with OpenEXR.File(str(path)) as picture:
        (channel,) = picture.channels().values()
        return channel.pixels


def read_pictures(output: OutputFormat, path: Path, folder: Path) -> np.ndarray:
    """All pictures of an archive, in the order of their names."""
    with zipfile.ZipFile(path) as archive:
        names = [f"frame_{number:05}{output.pictures}" for number in range(1, NUM_FRAMES + 1)]
        assert archive.namelist() == names and archive.testzip() is None
        return np.stack([read_picture(output.pictures, archive.read(name), folder) for name in names])


@pytest.mark.parametrize("num_channels", [3, 4])
@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.name)
def test_an_output_holds_the_frames(output: OutputFormat, num_channels: int, tmp_path: Path) -> None:
    frames = clip(output.frame_bits, num_channels)
    path, told = tmp_path / f"a{output.suffix}", []
    write_output(
        output, batches(frames), path, rate=16, num_frames=NUM_FRAMES, on_progress=told.append,
        is_stopped=lambda: False, is_background=True,
    )  # fmt: skip
    assert told == [1, NUM_FRAMES]
    assert path.stat().st_size <= output.num_bytes_bound(NUM_FRAMES, HEIGHT, WIDTH, num_channels)
    expected = frames if output.has_alpha else over_checkerboard(frames)
    if output.is_video:
        found = read_video(path, output.frame_bits, expected.shape[-1])
    else:
        found = read_pictures(output, path, tmp_path)
    assert found.shape == expected.shape
    if output.name == "exr":
        expected = as_linear(expected)
    if output.is_exact:
        assert np.array_equal(found, expected)
        return
    error = (found.astype(float) - expected) / (2**output.frame_bits - 1)
    assert 10 * np.log10(1 / (error[..., :3] ** 2).mean()) >= MIN_PSNR[output.name]
    if expected.shape[-1] == 4:
        assert np.abs(error[..., 3]).max() < 2 / 1023  # of its 10 bits


def as_linear(frames: np.ndarray) -> np.ndarray:
    """The float32 that an EXR holds; the 65,536 levels stay apart."""
    levels = to_linear(np.arange(2**16) / 65535).astype(np.float32)
    assert len(np.unique(levels)) == 2**16
    if frames.shape[-1] == 3:
        return levels[frames]
    alpha = frames[..., 3:] / 65535
    return np.concatenate([to_linear(frames[..., :3] / 65535) * alpha, alpha], -1).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "pixel_format"), [("h265", "yuv420p10le"), ("prores", "yuv444p12le"), ("ffv1-16", "gbrp16le")]
)
def test_videos_of_more_bits_say_what_they_are(name: str, pixel_format: str, tmp_path: Path) -> None:
    output = find_output(name)
    path = tmp_path / f"a{output.suffix}"
    write_output(output, [clip(16)], path, rate=Fraction(30000, 1001))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-vf", "showinfo", "-f", "null", "-"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert pixel_format in told and "29.97" in told
    if output.name != "ffv1-16":
        assert "color_range:tv color_space:bt709 color_primaries:bt709 color_trc:bt709" in told


def test_rates_are_not_rounded() -> None:
    assert rate_text(30000 / 1001) == "30000/1001" and rate_text(Fraction(24000, 1001)) == "24000/1001"
    assert rate_text(16) == "16/1" and rate_text(12.5) == "25/2"


@pytest.mark.parametrize("name", ["h265", "tiff"])
def test_stopping_leaves_no_file(name: str, tmp_path: Path) -> None:
    output, num_asked = find_output(name), 0

    def is_stopped() -> bool:
        nonlocal num_asked
        num_asked += 1
        return num_asked > 2

    path = tmp_path / f"a{output.suffix}"
    with pytest.raises(WritingStopped):
        write_output(output, (clip(16) for _ in range(10**6)), path, rate=16, is_stopped=is_stopped)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ffv1", "png"])
def test_a_file_has_a_limit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanvae_app.formats.outputs.OVERHEAD", 2048)
    output = find_output(name)
    with pytest.raises(OSError, match=rf"could not write a\{output.suffix}: "):
        write_output(output, [clip(8)], tmp_path / f"a{output.suffix}", rate=16, num_frames=0)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    for name in ("mp4", "png"):
        with pytest.raises(OSError, match=r"could not write a\.x: [^\n]*No such file or directory$"):
            write_output(find_output(name), [clip(8)], tmp_path / "gone" / "a.x", rate=16)
    with pytest.raises(ValueError, match=r"^There are no frames to write\.$"):
        write_output(find_output("mp4"), [], tmp_path / "a.mp4", rate=16)
    with pytest.raises(
        ValueError, match=r"^MP4, H\.265, 10 bit takes pictures of 16 pixels [^.]*, not 64x8\.$"
    ):
        write_output(find_output("h265"), [clip(16)[:, :8]], tmp_path / "a.mp4", rate=16)
    with pytest.raises(ValueError, match=r"^There is no format 'avi'; choose one of mp4, ffv1, "):
        find_output("avi")


def test_the_table_is_complete() -> None:
    assert len({output.name for output in OUTPUTS}) == len(OUTPUTS)
    for output in OUTPUTS:
        assert bool(output.pictures) != bool(output.video) and output.frame_bits in (8, 16)
        assert output.has_alpha == bool(output.video_with_alpha or output.pictures)
        assert output.purpose.endswith(".") and output.players.endswith(".")


def test_the_writer_of_pictures_starts_quickly() -> None:
    """It is a process of its own, so it must not import PyTorch."""
    code = "import wanvae_app.formats.picture_archive, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert output_writer.TIMEOUT >= 3600
