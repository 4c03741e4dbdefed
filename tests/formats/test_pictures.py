"""Numbered pictures in a zip or a folder are a clip. What is in the zip is not trusted."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wanvae_app.config import PRESETS
from wanvae_app.formats import picture_feed, pictures
from wanvae_app.formats.ffmpeg import ReadingStopped
from wanvae_app.formats.frame_range import FrameRange
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.video import describe_video, is_video, read_video
from wanvae_app.formats.video_plan import video_plan

WAN = PRESETS["wan2.1"]


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """A picture of one colour, which tells its number."""
    file = io.BytesIO()
    Image.new("RGB", size, (10 * number, 255 - 10 * number, 3 * number)).save(file, kind, quality=100)
    return file.getvalue()


def make_zip(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_zip_is_a_clip(tmp_path: Path, kind: str) -> None:
    """The numbers' values give the order, not the zip's own. What systems and people put beside is left out."""
    suffix = {"PNG": "png", "JPEG": "JPG"}[kind]
    names = {
        f"clip/frame {number}.{suffix}": picture(number, kind) for number in (3, 10, 1, 2, 12, 4, 5, 9, 11)
    }
    extra = {"__MACOSX/clip/._frame 1.png": b"x", "clip/.hidden.png": b"x", "clip/notes.txt": b"x"}
    path = make_zip(tmp_path / "clip.zip", {"clip/": b"", **names, **extra}).rename(tmp_path / "clip.bin")
    assert is_video(path)
    assert describe_video(path, WAN).startswith("9 pictures as a clip, 24x16 pixels: it will be encoded")
    video = read_video(path, WAN, None)
    levels = video.frames.read(0, 9)[:, 8, 12, 0].astype(int)
    assert abs(levels - 10 * np.array([1, 2, 3, 4, 5, 9, 10, 11, 12])).max() <= (0 if kind == "PNG" else 2)
    assert video.fps == 16 and video.start is None and not video.note
    part = read_video(path, WAN, None, frames=FrameRange(2, 7))
    assert np.array_equal(part.frames.read(0, 5), video.frames.read(2, 7))


def test_a_folder_is_a_clip(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 12):
        (folder / f"{number}.png").write_bytes(picture(number))
    video = read_video(folder, WAN, None)
    assert video.frames.read(0, 9)[:, 0, 0, 0].tolist() == [10 * number for number in range(1, 10)]
    assert video.note == "The video was cut from 11 to 9 frames, as the VAE needs."


def test_other_zips_are_no_clips(tmp_path: Path) -> None:
    """Checkpoints and latents are zips as well."""
    for name in ("archive/data.pkl", "latent.npy"):
        assert not is_video(make_zip(tmp_path / "other.zip", {name: b"x", "a.png": picture(1)}))


def bomb(path: Path) -> None:
    """A picture of 150 kB that becomes 150 MB of zeros."""
    make_zip(path, {"1.png": picture(1), "2.png": picture(2) + bytes(150 * 2**20)})


def crowd(path: Path) -> None:
    make_zip(path, {f"{number}{'x' * 200}.png": b"" for number in range(5000)})


def damaged(path: Path) -> None:
    make_zip(path, {"1.png": picture(1), "2.png": picture(2)})
    path.write_bytes(path.read_bytes()[:-30])


def encrypted(path: Path) -> None:
    make_zip(path, {"1.png": picture(1)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


WRONG = {
    "holds no pictures": lambda path: make_zip(path, {"clip/": b"", "clip/a.txt": b"x"}),
    "holds a file that is no PNG or JPEG by its content: 1.png": lambda path: make_zip(path, {"1.png": b"x"}),
    "holds PNG and JPEG pictures, such as 2.png": lambda path: make_zip(
        path, {"1.png": picture(1), "2.png": picture(2, "JPEG")}
    ),
    "holds a picture of more than 128 MiB: 2.png": bomb,
    "is an archive of too many entries": crowd,
    "is a damaged zip": damaged,
    "is encrypted or packed in a rare way": encrypted,
    "packed in a rare way": lambda path: make_zip(path, {"1.png": picture(1)}, zipfile.ZIP_LZMA),
    "is damaged": lambda path: make_zip(path, {"1.png": picture(1)[:20]}),
    "cut off": lambda path: make_zip(path, {"1.png": picture(1), "2.png": picture(2)[:40]}),
    "needs at least 8x8": lambda path: make_zip(path, {"1.png": picture(1, size=(4, 4))}),
    "is too long: at most 1001": lambda path: make_zip(path, {f"{i}.png": picture(1) for i in range(1002)}),
}  # fmt: skip


@pytest.mark.parametrize("expected", WRONG)
def test_refused_in_one_sentence(tmp_path: Path, expected: str) -> None:
    path = tmp_path / "clip.zip"
    WRONG[expected](path)
    with pytest.raises(ValueError, match=expected) as refusal:
        read_video(path, WAN, None)
    text = str(refusal.value)
    assert text.startswith("clip.zip") and text.endswith(".") and "\n" not in text, text


def test_a_process_that_dies_leaves_no_shorter_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "clip.zip", {f"{number}.png": picture(number) for number in range(9)})
    plan = video_plan(path, WAN)
    monkeypatch.setattr(pictures, "FEED_LIMITS", Limits(cpu_seconds=1, memory_bytes=2**24))
    refusals = "cannot be read: unpacking it takes more time or memory than", "takes too much memory"
    with pytest.raises(ValueError, match=rf"^clip\.zip ({'|'.join(refusals)})"):
        read_video(path, WAN, None, plan=plan)


def test_a_zip_is_planned_and_stopped_like_a_video(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "clip.zip", {f"{number}.png": picture(number) for number in range(20)})
    assert video_plan(path, WAN).num_bytes_bound == 20 * 16 * 24 * 3
    seen: list[int] = []
    with pytest.raises(ReadingStopped):
        read_video(
            path, WAN, None, on_progress=lambda number, _: seen.append(number), stopped=lambda: len(seen) == 7
        )
    assert seen == list(range(1, 8))


def test_order() -> None:
    names = ["a10.png", "a9.png", "a010.png", "b1.png", "a.png", f"a{'9' * 5000}.png"]
    in_order = ["a9.png", "a10.png", "a010.png", f"a{'9' * 5000}.png", "a.png", "b1.png"]
    assert sorted(names, key=picture_feed.natural_order) == in_order
