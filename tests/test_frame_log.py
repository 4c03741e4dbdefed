"""FrameLog: readers get back what was appended, from file or memory; listeners hear of every change."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from support.app_runner import wait_for

from wanvae_app import frame_log
from wanvae_app.frame_log import FrameLog


def some_frames(num_frames: int, height: int = 6, width: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("filed", [True, False])
def test_any_range_reads_back_equal(tmp_path: Path, filed: bool) -> None:
    frames = some_frames(23)
    log = FrameLog(6, 10, tmp_path if filed else None)
    for start in range(0, 23, 5):
        log.append(frames[start : start + 5])
    assert len(log) == 23 and log.warning == ""
    for start in range(24):
        for stop in range(start, 24):
            assert np.array_equal(log.read(start, stop), frames[start:stop])
    with pytest.raises(IndexError):
        log.read(3, 24)
    assert log.times == sorted(log.times)


def test_a_full_disk_costs_memory_and_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = some_frames(9)
    log = FrameLog(6, 10, tmp_path)
    log.append(frames[:3])
    pwrite = os.pwrite
    budget = [6 * 10 * 3 * 2 + 7]  # two frames and a bit of the third fit

    def full_disk(fd: int, data: memoryview, offset: int) -> int:
        if not budget[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[: budget[0]]
        budget[0] -= len(data)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full_disk)
    log.append(frames[3:7])
    log.append(frames[7:])
    assert "No space left" in log.warning
    assert np.array_equal(log.read(0, 9), frames)
    assert np.array_equal(log.read(4, 8), frames[4:8])
    assert np.array_equal(log.read(6, 7), frames[6:7])


def test_memory_takes_a_limited_number_of_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_log, "MAX_KEPT", 3 * 6 * 10 * 3)
    log = FrameLog(6, 10, tmp_path / "gone")
    log.append(some_frames(3))
    with pytest.raises(OSError, match=r"cannot be written to a file, and 0\.0 GB of memory hold no more"):
        log.append(some_frames(1))
    assert np.array_equal(log.read(0, len(log)), some_frames(3))


def test_a_log_gets_its_size_when_it_is_known(tmp_path: Path) -> None:
    log = FrameLog()
    assert (log.height, log.width, len(log), log.num_bytes) == (0, 0, 0, 0)
    log.open(6, 10, tmp_path)
    log.append(some_frames(2))
    assert np.array_equal(log.read(0, 2), some_frames(2)) and log.num_bytes == 2 * 6 * 10 * 3
    log.close()
    assert log.num_bytes == 0


def test_a_missing_folder_costs_memory_and_no_frame(tmp_path: Path) -> None:
    log = FrameLog(6, 10, tmp_path / "gone")
    log.append(some_frames(2))
    assert "No such file" in log.warning
    assert np.array_equal(log.read(0, 2), some_frames(2))


def test_readers_follow_a_writer(tmp_path: Path) -> None:
    frames = some_frames(40)
    log = FrameLog(6, 10, tmp_path)
    results: list[np.ndarray] = []

    def follow() -> None:
        parts: list[np.ndarray] = []
        count, changed = 0, threading.Event()
        with log.listener(changed.set):
            while not log.finished or count < len(log):
                assert changed.wait(10)
                changed.clear()
                now = len(log)
                parts.append(log.read(count, now))
                count = now
        results.append(np.concatenate(parts))

    readers = [threading.Thread(target=follow) for _ in range(20)]
    for reader in readers:
        reader.start()
    wait_for(lambda: len(log._listeners) == 20, 10)
    for frame in frames:
        log.append(frame[None])
    log.finish()
    for reader in readers:
        reader.join(10)
    assert len(results) == 20
    assert all(np.array_equal(result, frames) for result in results)
    assert log._listeners == []


def test_a_listener_is_told_of_frames_and_of_the_end() -> None:
    log = FrameLog(6, 10)
    told: list[tuple[int, bool, bool]] = []

    def notify() -> None:
        told.append((len(log), log.finished, log.closed))

    with log.listener(notify):
        log.append(some_frames(2))
        log.append(some_frames(1))
        log.finish()
    assert told == [(2, False, False), (3, False, False), (3, True, False)]
    log.close()
    assert len(told) == 3, "it has left"


def test_a_listener_is_told_that_the_log_is_closed_and_may_read_it(tmp_path: Path) -> None:
    log = FrameLog(6, 10, tmp_path)
    found: list[np.ndarray | str] = []

    def read() -> None:
        try:
            found.append(log.read(0, 1))
        except ValueError as error:
            found.append(str(error))

    with log.listener(read), log.listener(read):
        log.append(some_frames(1))
        log.close()
    assert [type(what) for what in found] == [np.ndarray, np.ndarray, str, str]
    assert log._listeners == []


def test_a_closed_log_keeps_its_length_and_no_frame(tmp_path: Path) -> None:
    log = FrameLog(6, 10, tmp_path)
    log.append(some_frames(2))
    log.close()
    assert log.finished and len(log) == len(log.times) == 2
    with pytest.raises(ValueError, match="deleted"):
        log.read(0, 1)
    log.close()


def test_nothing_of_a_log_stays_behind(tmp_path: Path) -> None:
    num_open = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        log = FrameLog(6, 10, tmp_path)
        log.append(some_frames(1))
        log.read(0, 1)
        del log
    assert len(os.listdir("/proc/self/fd")) == num_open
    assert list(tmp_path.iterdir()) == []
