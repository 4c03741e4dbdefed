"""Which runs are kept, and what outlives a restart."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from support.tiny import some_video

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs import result_store as shelf_module
from wanvae_app.jobs.job import Job, JobState, Status
from wanvae_app.jobs.result_store import KEEP, MAX_KEPT, ResultStore, private_folder, record


def put(store: ResultStore, number: int, seen_ago: float = 1e6, state: str = "finished") -> JobState:
    job = Job(f"run{number}", "decode", (16, 2, 4, 3), 1, True)
    folder = store.new_folder()
    run = JobState(
        job, folder=folder, frames=FrameLog(8, 8, folder), num_frames=5, name=f"{number}.pt", owner="ann"
    )
    run.change(status=Status(state), created=float(number), last_seen=time.monotonic() - seen_ago)
    store.add(run)
    return run


def test_old_runs_are_deleted_but_not_under_their_viewers(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "runs")
    waiting = put(store, 0, state="queued")
    watched = put(store, 1, seen_ago=1)
    runs = [put(store, number) for number in range(2, 2 + KEEP + 3)]
    store.delete_old()
    assert store.runs() == [waiting, watched, *runs[-KEEP:]]
    assert store.get("run1") is watched and store.get("run2") is None
    assert runs[0].frames.closed and not runs[0].folder.exists() and watched.folder.exists()
    many = [put(store, number, seen_ago=0) for number in range(100, 100 + MAX_KEPT)]
    store.delete_old()
    assert store.runs() == [waiting, *many], "however many are watched, disk and memory are finite"
    store.clear()
    assert not store.folder.exists()


def test_a_finished_run_outlives_a_restart(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    run = put(store, 1)
    run.video_path = run.folder / "clip.mp4"
    run.video_path.write_bytes(b"video")
    run.source = some_video(5)
    run.peak_bytes, run.decode_seconds, run.started, run.finished = [1, 2], 0.5, 10.0, 11.0
    record(run)
    unfinished = put(store, 2)  # not written down
    (unfinished.folder / "part.mp4").write_bytes(b"video")
    broken = put(store, 3)
    (broken.folder / "run.json").write_text("{}")

    (found,) = ResultStore(tmp_path).runs()
    assert (found.id, found.owner, found.name, found.job) == (run.id, "ann", "1.pt", run.job)
    assert found.status == "finished" and found.ended and "restarted" in found.message
    assert found.video_path is not None and found.video_path.read_bytes() == b"video"
    assert found.latent_path is None and found.frames.closed and found.done == {"decode": 2}
    assert (found.peak_bytes, found.decode_seconds, found.finished) == ([1, 2], 0.5, 11.0)
    assert not broken.folder.exists() and not unfinished.folder.exists()


def test_a_private_folder_is_found_again_and_others_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    left_over = tmp_path / f"wanvae-{os.getuid()}-{ended.pid}"
    left_over.mkdir()
    folder = private_folder(os.getpid(), again=False)
    (folder / "run").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and not left_over.exists()
    assert private_folder(os.getpid(), again=True) == folder and (folder / "run").exists()
    assert private_folder(os.getpid(), again=False) == folder and not (folder / "run").exists()


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trap = tmp_path / f"wanvae-{os.getuid()}-{os.getpid()}"
    trap.mkdir(mode=0o777)
    trap.chmod(0o777)
    monkeypatch.setattr(shelf_module.shutil, "rmtree", lambda *_, **__: None)  # it is not ours to delete
    assert private_folder(os.getpid(), again=False) != trap
