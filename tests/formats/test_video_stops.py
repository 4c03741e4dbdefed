"""Reading a video shows its progress and can be stopped; whatever ffmpeg does, it ends in time."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest
from support.video_files import pattern

from wanvae_app.config import PRESETS
from wanvae_app.formats import ffmpeg as ffmpeg_process
from wanvae_app.formats.ffmpeg import ReadingStopped
from wanvae_app.formats.video import describe_video, read_video
from wanvae_app.formats.video_plan import video_plan

WAN = PRESETS["wan2.1"]


def script(path: Path, text: str) -> Callable[[], str]:
    """A program in ffmpeg's place."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return lambda: str(path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ffmpeg_process.Ffmpeg]:
    """Every ffmpeg that the test starts."""
    processes: list[ffmpeg_process.Ffmpeg] = []

    class Recorded(ffmpeg_process.Ffmpeg):
        def __init__(self, process: subprocess.Popen[bytes]) -> None:
            super().__init__(process)
            processes.append(self)

    monkeypatch.setattr(ffmpeg_process, "Ffmpeg", Recorded)
    return processes


def test_stopped_while_ffmpeg_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[ffmpeg_process.Ffmpeg]
) -> None:
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264")
    plan = video_plan(path, WAN)
    (tmp_path / "frames").mkdir()
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", script(tmp_path / "silent", "exec sleep 60"))
    for attempt in (
        lambda stopped: read_video(path, WAN, tmp_path / "frames", plan=plan, stopped=stopped),
        lambda stopped: video_plan(path, WAN, stopped=stopped),
    ):
        event = threading.Event()
        timer = threading.Timer(0.5, event.set)
        timer.start()
        start = time.monotonic()
        with pytest.raises(ReadingStopped):
            attempt(event.is_set)
        assert time.monotonic() - start < 3
        assert started[-1].process.poll() is not None
    assert not list((tmp_path / "frames").iterdir())


def test_stopped_between_frames(tmp_path: Path) -> None:
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264", frames=60)
    seen: list[int] = []
    with pytest.raises(ReadingStopped):
        read_video(
            path, WAN, tmp_path, on_progress=lambda n, _: seen.append(n), stopped=lambda: len(seen) == 7
        )
    assert seen == list(range(1, 8))


def test_an_error_of_the_caller_ends_ffmpeg(tmp_path: Path, started: list[ffmpeg_process.Ffmpeg]) -> None:
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264", frames=60)

    def fail(*_: int) -> None:
        raise KeyError("of the caller")

    with pytest.raises(KeyError) as error:
        read_video(path, WAN, tmp_path, on_progress=fail)
    assert error.tb is not None and all(one.process.poll() is not None for one in started[-1:])


def test_a_silent_ffmpeg_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264")
    plan = video_plan(path, WAN)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", script(tmp_path / "silent", "exec sleep 60"))
    monkeypatch.setattr(ffmpeg_process, "SILENCE_TIMEOUT", 0.3)
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read: ffmpeg found no end in it"):
        describe_video(path, WAN)
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be decoded: ffmpeg takes too long after 0 frames"):
        read_video(path, WAN, tmp_path, plan=plan)


def test_an_endless_listing_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ffmpeg prints, a bounded part is read."""
    path = pattern(tmp_path / "a.mp4", "-c:v", "libx264")
    monkeypatch.setattr(
        imageio_ffmpeg, "get_ffmpeg_exe", script(tmp_path / "loud", "exec yes '#dimensions 0: 64x48'")
    )
    assert video_plan(path, WAN).num_frames_bound == 1001
