"""Frames in a lossless file: bit for bit, decoded when they are read, refused if the file is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.tiny import some_video

from wanvae_app.formats.lossless import read_lossless, write_lossless
from wanvae_app.formats.stored_frames import StoredFrames
from wanvae_app.frame_log import FrameLog


def stored(folder: Path, frames: FrameLog, name: str = "frames.mkv") -> StoredFrames:
    path = folder / name
    digest = write_lossless(frames, path)
    return StoredFrames(path, digest, frames.height, frames.width, frames.times, folder)


@pytest.mark.parametrize(("height", "width"), [(32, 24), (8, 8), (7, 13), (64, 6)])
def test_frames_come_back_bit_for_bit(tmp_path: Path, height: int, width: int) -> None:
    video = some_video(5, height, width)
    log = stored(tmp_path, video)
    assert len(log) == 5 and log.finished and not log.closed and log.times == video.times
    assert log.num_bytes == 0, "nothing is decoded before it is read"
    assert np.array_equal(log.read(3, 5), video.read(3, 5))
    assert np.array_equal(log.read(0, 5), video.read(0, 5)) and log.num_bytes == video.num_bytes
    with pytest.raises(IndexError):
        log.read(3, 6)
    log.close()
    with pytest.raises(ValueError, match="deleted"):
        log.read(0, 1)


def test_smooth_frames_become_small(tmp_path: Path) -> None:
    video = FrameLog(64, 64)
    slope = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    video.append(np.broadcast_to(slope[None, ..., None], (4, 64, 64, 3)))
    log = stored(tmp_path, video)
    assert (tmp_path / "frames.mkv").stat().st_size < video.num_bytes / 5
    assert np.array_equal(log.read(0, 4), video.read(0, 4))


@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "foreign"])
def test_a_damaged_file_is_refused_and_never_guessed(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    video = some_video(5)
    log = stored(tmp_path, video)
    path = tmp_path / "frames.mkv"
    data = bytearray(path.read_bytes())
    if fault == "flipped":
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
    elif fault == "cut":
        path.write_bytes(data[: len(data) * 2 // 3])
    elif fault == "missing":
        path.unlink()
    else:
        shutil.copy(__file__, path)
    with pytest.raises(ValueError, match="run it again"):
        log.read(4, 5)
    assert log.closed, "so that the page says that the frames are gone"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("height", "width", "num_frames"), [(32, 24, 4), (32, 24, 6), (16, 48, 5), (512, 384, 5), (8, 8, 5)]
)
def test_a_file_of_other_frames_is_refused(tmp_path: Path, height: int, width: int, num_frames: int) -> None:
    path = tmp_path / "frames.mkv"
    digest = write_lossless(some_video(5, 32, 24), path)
    with pytest.raises(ValueError, match=f"no {num_frames} frames of {width}x{height}"):
        list(read_lossless(path, digest, height, width, num_frames))


def test_closing_meanwhile_ends_a_read(tmp_path: Path) -> None:
    log = stored(tmp_path, some_video(5))
    log._start()
    log.close()
    with pytest.raises(ValueError, match="deleted"):
        log.read(0, 5)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    video = some_video(5)
    video.close()
    with pytest.raises(ValueError, match="deleted"):
        write_lossless(video, tmp_path / "frames.mkv")
    with pytest.raises(OSError, match=r"could not write frames\.mkv"):
        write_lossless(some_video(5), tmp_path / "no folder" / "frames.mkv")
    assert list(tmp_path.iterdir()) == []
