"""Videos and pictures of many cameras and programs: containers, tracks, timing, HDR, interlacing, tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiled_picture import AVIF, HEIC, TileKind, write_tiles
from support.video_files import ffmpeg, pattern

from wanvae_app.config import PRESETS
from wanvae_app.formats import video_header
from wanvae_app.formats.frame_facts import parse_facts
from wanvae_app.formats.video import Video, describe_video, is_video, read_video
from wanvae_app.formats.video_container import find_container
from wanvae_app.page.compare import psnr

WAN = PRESETS["wan2.1"]
H264 = ("-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p")
CONTAINERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a.m4v": ("mov", ("-c:v", "libx264", "-crf", "1")),
    "a.mkv": ("matroska", (*H264, "-bf", "2")),
    "a.avi": ("avi", (*H264, "-bf", "2")),
    "a.ts": ("mpegts", H264),
    "a.mts": ("mpegts", (*H264, "-f", "mpegts", "-mpegts_m2ts_mode", "1")),
    "a.mpg": ("mpeg", ("-c:v", "mpeg2video", "-q:v", "1", "-r", "25", "-bf", "2")),
    "a.flv": ("flv", ("-c:v", "flv1", "-q:v", "1")),
    "a.wmv": ("asf", ("-c:v", "wmv2", "-q:v", "1")),
    "a.ogv": ("ogg", ("-c:v", "libtheora", "-q:v", "10")),
    "a.apng": ("apng", ("-f", "apng")),
}


def frames_of(video: Video) -> np.ndarray:
    return video.frames.read(0, len(video.frames)).astype(int)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Video:
    """The test pattern, lossless."""
    path = pattern(tmp_path_factory.mktemp("plain") / "plain.mkv", "-c:v", "ffv1", "-pix_fmt", "bgr0")
    return read_video(path, WAN, None)


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(tmp_path: Path, plain: Video, name: str) -> None:
    """All are known by their content, keep every frame once, and their rate."""
    container, options = CONTAINERS[name]
    path = pattern(tmp_path / name, *options).rename(tmp_path / "mislabelled.pt")
    assert find_container(path) == container
    video = read_video(path, WAN, None)
    assert video.fps == pytest.approx(25 if name == "a.mpg" else 12, rel=0.001) and not video.note
    assert psnr(video.frames, plain.frames) > 22  # halved colours cost this pattern most


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.avif"])
def test_animated_pictures(tmp_path: Path, name: str) -> None:
    """AVIF holds a still picture besides, which alone would be 1 frame of 21."""
    levels = [12 * i for i in range(21)]
    pictures = [Image.new("RGB", (64, 48), (level, 0, 255 - level)) for level in levels]
    path = tmp_path / name
    quality = {"quality": 100, "subsampling": "4:4:4"} if name == "a.avif" else {}
    lossless = {"lossless": True} if name == "a.webp" else quality
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, **lossless)
    video = read_video(path, WAN, None)
    assert len(video.frames) == 21 and video.fps == pytest.approx(10) and not video.note
    expected = np.stack([np.asarray(picture) for picture in pictures]).astype(int)
    assert abs(frames_of(video) - expected).max() <= 2


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif"])
def test_a_picture_is_one_frame(tmp_path: Path, name: str) -> None:
    pixels = np.add.outer(np.arange(48), np.arange(64))[..., None].repeat(3, 2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / name, quality=100)
    video = read_video(tmp_path / name, WAN, None)
    assert len(video.frames) == 1 and not video.note
    assert abs(frames_of(video)[0] - pixels).max() <= (0 if name == "a.png" else 6)
    assert describe_video(tmp_path / name, WAN).startswith("Picture, 64x48 pixels: it will be encoded")


def test_a_photo_lies_as_its_camera_says(tmp_path: Path) -> None:
    """What follows the picture, here a second one, is not taken: cameras put previews and films there."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees to the left
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path, quality=100, exif=exif)
    path.write_bytes(path.read_bytes() * 2)
    frames = frames_of(read_video(path, WAN, None))
    assert frames.shape == (1, 64, 48, 3) and abs(frames[0] - np.rot90(pixels, -1)).max() <= 4


@pytest.mark.parametrize(("kind", "name"), [(AVIF, "a.avif"), (HEIC, "a.heic")])
def test_tiles_are_put_together(tmp_path: Path, kind: TileKind, name: str) -> None:
    """Telephones store photos so."""
    y, x = np.mgrid[0:128, 0:192]
    pixels = np.stack([x, 2 * y, 255 - x], -1).astype(np.uint8)
    video = read_video(write_tiles(tmp_path / name, pixels, 3, 2, kind, quarter_turns=1), WAN, None)
    assert frames_of(video).shape == (1, 192, 128, 3)
    assert abs(frames_of(video)[0] - np.rot90(pixels)).max() <= 6


def test_tiles_that_take_too_long_are_not_one_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiles(tmp_path / "a.avif", np.zeros((64, 128, 3), np.uint8), 2, 1, AVIF)
    monkeypatch.setattr(video_header, "FRAME_TIMEOUT", 0.0)
    with pytest.raises(
        ValueError, match=r"a\.avif cannot be decoded: putting its tiles together takes too long"
    ):
        read_video(path, WAN, None)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_default_track(tmp_path: Path, suffix: str) -> None:
    """It is the second here; the first is larger. Players show the default one."""
    path = tmp_path / f"two.{suffix}"
    colours = ["-f", "lavfi", "-i", "color=red:s=64x48:r=12", "-f", "lavfi", "-i", "color=blue:s=32x24:r=12"]
    flags = ["-disposition:v:0", "0", "-disposition:v:1", "default"]
    ffmpeg(*colours, "-map", "0", "-map", "1", "-frames:v", "5", "-c:v", "libx264", *flags, path)
    frames = frames_of(read_video(path, WAN, None))
    assert frames.shape == (5, 24, 32, 3)
    assert abs(frames.mean((0, 1, 2)) - (0, 0, 255)).max() < 6


def test_a_cover_is_no_track(tmp_path: Path) -> None:
    cover, path = pattern(tmp_path / "cover.jpg", frames=1, size="96x96"), tmp_path / "a.mp4"
    clip = pattern(tmp_path / "clip.mp4", *H264)
    maps = ["-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "attached_pic"]
    ffmpeg("-i", cover, "-i", clip, *maps, path)
    assert frames_of(read_video(path, WAN, None)).shape == (9, 32, 48, 3)


@pytest.mark.parametrize(("codec", "suffix"), [("libvpx-vp9", "webm"), ("libx264", "ts")])
def test_a_recording_that_begins_between_key_frames(tmp_path: Path, codec: str, suffix: str) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"a.{suffix}"
    options = ("-lag-in-frames", "0", "-auto-alt-ref", "0") if codec == "libvpx-vp9" else ("-bf", "0")
    pattern(whole, "-c:v", codec, "-g", "20", *options, frames=37)
    ffmpeg("-i", whole, "-c", "copy", "-copyinkf", "-bsf:v", r"noise=drop=lt(n\,7)", path)
    video = read_video(path, WAN, None)
    assert "Its first 13 frames build on one that is not in the file; they are left out." in video.note
    assert "they are left out" in describe_video(path, WAN)
    assert np.array_equal(frames_of(video), frames_of(read_video(whole, WAN, None))[20:37])


def test_uneven_times_are_told(tmp_path: Path) -> None:
    path = tmp_path / "uneven.mkv"
    uneven = ["-vf", "setpts=N*N/TB/30", "-fps_mode", "passthrough", "-c:v", "ffv1"]
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=5", "-frames:v", "9", *uneven, path)
    video = read_video(path, WAN, None)
    assert len({frame.tobytes() for frame in frames_of(video)}) == 9
    sentence = "Its frames come at uneven times; each is taken once, and all are shown equally long, at 4.0"
    assert sentence in video.note and sentence in describe_video(path, WAN)


def test_interlaced_pictures(tmp_path: Path) -> None:
    """Each holds two moments: a bar that moves fast has combed edges, unless they are taken apart."""
    path, combed = tmp_path / "interlaced.mp4", tmp_path / "combed.mp4"
    moving = (
        "nullsrc=s=96x64:r=50,geq=lum='255*between(X,8*N,8*N+16)':cb=128:cr=128,tinterlace=interleave_top"
    )
    source = ["-f", "lavfi", "-i", f"{moving},setfield=tff", "-frames:v", "5", "-c:v", "libx264", "-crf", "1"]
    ffmpeg(*source, "-flags", "+ilme+ildct", "-x264-params", "tff=1", path)
    ffmpeg(*source, "-vf", "setfield=prog", combed)
    video, other = read_video(path, WAN, None), read_video(combed, WAN, None)

    def combing(clip: Video) -> float:
        frames = frames_of(clip)[..., 1]
        return float(abs(2 * frames[:, 1:-1] - frames[:, :-2] - frames[:, 2:]).mean())

    assert video.note == "The video was deinterlaced, as the VAE needs." and not other.note
    assert "it will be deinterlaced, encoded" in describe_video(path, WAN)
    assert len(video.frames) == 5 and combing(other) > 40 and combing(video) < 0.1 * combing(other)


COLOURS = [(r, g, b) for r in (0, 128, 255) for g in (0, 128, 255) for b in (0, 128, 255)]
COLOURS += [(level,) * 3 for level in range(0, 256, 12)]
TO_XYZ_709 = np.array(
    [[0.4123908, 0.3575843, 0.1804808], [0.2126390, 0.7151687, 0.0721923], [0.0193308, 0.1191948, 0.9505322]]
)
TO_XYZ_2020 = np.array(
    [[0.6369580, 0.1446169, 0.1688810], [0.2627002, 0.6779981, 0.0593017], [0, 0.0280727, 1.0609851]]
)


def pq(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: a signal from 0 to 1 for cd/m2."""
    power = (light / 10000) ** 0.1593017578125
    return np.asarray(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def hlg(light: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100: a signal from 0 to 1 for cd/m2 of a display of 1000."""
    luminance = np.maximum((light / 1000) @ (0.2627, 0.6780, 0.0593), 1e-9)[..., None]
    scene = light / 1000 * luminance ** (-0.2 / 1.2)
    upper = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), upper)


SIGNALS = {"HLG": ("arib-std-b67", hlg, 14), "PQ": ("smpte2084", pq, 16)}  # and the largest error, of 255


@pytest.mark.parametrize("name", SIGNALS)
def test_hdr_becomes_the_sdr_that_it_was_made_of(tmp_path: Path, name: str) -> None:
    """SDR was put into BT.2020 and HDR with white at 203 cd/m2, by ITU-R BT.2408. 10 bits, as telephones record."""
    transfer, signal, bound = SIGNALS[name]
    sdr = np.array(COLOURS).repeat(8, 0)[None].repeat(8, 0)
    light = 203 * np.clip((sdr / 255) ** 2.4 @ (np.linalg.inv(TO_XYZ_2020) @ TO_XYZ_709).T, 0, None)
    pixels = np.round(65535 * signal(light)).astype("<u2")
    path, source = tmp_path / "hdr.mkv", tmp_path / "light.rgb"
    source.write_bytes(pixels.tobytes())
    convert = (
        "scale=out_color_matrix=bt2020:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv444p10le"
    )
    tags = f"setparams=range=tv:colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", f"{sdr.shape[1]}x{sdr.shape[0]}", "-i", source]
    ffmpeg(*raw, "-vf", f"{convert},{tags}", "-c:v", "ffv1", path)
    video = read_video(path, WAN, None)
    assert video.note == f"The video was tone-mapped from HDR ({name}) to SDR, as the VAE needs."
    assert f"it will be tone-mapped from HDR ({name}) to SDR, encoded" in describe_video(path, WAN)
    error = abs(frames_of(video)[0] - sdr)
    assert error.max() <= bound and error.mean() < 2


def test_hdr_of_a_telephone(tmp_path: Path) -> None:
    """H.265, 4:2:0, odd sizes after scaling; only the transfer function is stated."""
    path = tmp_path / "hlg.mov"
    tags = "scale=64:48,setsar=4/3,format=yuv420p10le,setparams=color_trc=arib-std-b67"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=12", "-frames:v", "5", "-vf", tags, "-c:v", "libx265",
           "-x265-params", "log-level=none", "-tag:v", "hvc1", path)  # fmt: skip
    video = read_video(path, WAN, None)
    assert "HDR (HLG)" in video.note and "scaled from 64x48 to 85x48" in video.note
    assert len(video.frames) == 5


def test_facts_of_what_is_no_header() -> None:
    assert (
        parse_facts(b"") is None
        and parse_facts(bytes(4096)) is None
        and parse_facts(b"\x1a\x45\xdf\xa3") is None
    )
    assert not is_video(Path(__file__))
