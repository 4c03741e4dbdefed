"""What viewers get when the server fails: no ffmpeg, no disk space, an exception in our code, lost ranks."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.app_runner import wait_for
from support.page_server import Server, frame_indices, running_server

from wanvae_app.jobs import writer as writer_module
from wanvae_app.page import frame_stream
from wanvae_app.parallel.process_group import GroupLost


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def watch_run(server: Server) -> tuple[dict[str, Any], list[int]]:
    """Start a run and watch it; returns its last state and the indices of the frames that the viewer got."""
    entry = server.start()
    seen = frame_indices(server.visitor.get(f"/live/{entry.run.id}").content)
    wait_for(lambda: entry.settled, 30)
    return server.visitor.get(f"/live/{entry.run.id}/state").json(), seen


def test_without_ffmpeg_the_frames_are_seen(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    state, seen = watch_run(server)
    assert state["state"] == "finished" and seen == [0, 1, 2, 3, 4]
    assert re.fullmatch(r"Finished\. The MP4 could not be written: .*ffmpeg.* missing.*\.", state["message"])
    assert (
        not state["video_file"] and server.visitor.get(f"/live/{state['job']}/video.mp4").status_code == 404
    )


def test_on_a_full_disk_the_frames_are_seen(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    state, seen = watch_run(server)
    assert state["state"] == "finished" and seen == [0, 1, 2, 3, 4]
    assert "kept in memory" in state["message"] and "No space left on device" in state["warning"]


def test_without_the_temporary_folder_the_frames_are_seen(server: Server) -> None:
    folder = server.jobs.folder
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("in the way")
    state, seen = watch_run(server)
    folder.unlink()
    folder.with_name("elsewhere").rename(folder)
    assert state["state"] == "finished" and seen == [0, 1, 2, 3, 4]
    assert "kept in memory" in state["message"] and "could not be written" in state["message"]


def test_a_fault_in_writing_files_ends_neither_the_run_nor_the_writer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a fault of our own")

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "write_mp4", broken)
        state, seen = watch_run(server)
    assert (
        state["state"] == "finished" and seen == [0, 1, 2, 3, 4] and "a fault of our own" in state["message"]
    )
    state, _ = watch_run(server)
    assert state["message"] == "Finished." and state["video_file"]


def test_a_frame_that_cannot_be_encoded_costs_its_viewer_a_reconnect(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = server.finish()
    with monkeypatch.context() as patch:
        original = frame_stream.encode_record
        patch.setattr(
            frame_stream,
            "encode_record",
            lambda log, index, run: original(log, index, run) if index < 2 else 1 / 0,
        )
        with server.visitor.stream("GET", f"/live/{run.id}") as answer, pytest.raises(httpx.HTTPError):
            answer.read()
    assert frame_indices(server.visitor.get(f"/live/{run.id}?start=2").content) == [2, 3, 4]


# The last test: the server takes no run after it.


def test_health_tells_ready_busy_and_broken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def health() -> str:
        return server.stranger.get("/health").json()["state"]

    going, lost = threading.Event(), threading.Event()

    def agree(*_: Any) -> Any:
        going.wait(20)
        raise GroupLost("rank 3 died")

    assert health() == "ready"
    monkeypatch.setattr(server.jobs.group, "agree", agree)
    server.jobs.on_lost = lost.set
    entry, queued = server.start(), server.start()
    assert health() == "busy"
    going.set()
    assert lost.wait(20) and health() == "broken"
    for run in (entry.run, queued.run):
        state = server.visitor.get(f"/live/{run.id}/state").json()
        assert (state["state"], state["message"]) == ("failed", "Rank 3 died; the ranks are being restarted.")
    with pytest.raises(ValueError, match="Rank 3 died"):
        server.start()
