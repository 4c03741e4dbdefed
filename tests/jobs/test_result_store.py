"""Which runs are kept, and what of them outlives a restart."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.tiny import some_video

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import Job, JobKind
from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.jobs.result_store import MAX_ENDED, MAX_UNWATCHED, ResultStore, save_run


def put(store: ResultStore, number: int, seen_ago: float = 1e6, status: Status = Status.FINISHED) -> JobState:
    """Put a run into the store that a page last asked for `seen_ago` seconds ago."""
    job = Job(f"run{number}", JobKind.DECODE, LatentShape(16, 2, 4, 3), chunk=1, parallel=True)
    folder = store.new_folder()
    run = JobState(
        job, folder=folder, frames=FrameLog(8, 8, folder), num_frames=5, name=f"{number}.pt", owner="ann"
    )
    run.change(status=status, created=float(number), last_seen=time.monotonic() - seen_ago)
    store.add(run)
    return run


def test_old_runs_are_deleted_unless_they_are_watched(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "runs")
    waiting = put(store, 0, status=Status.QUEUED)
    watched = put(store, 1, seen_ago=1)
    runs = [put(store, number) for number in range(2, 2 + MAX_UNWATCHED + 3)]
    store.delete_old()
    assert store.runs() == [waiting, watched, *runs[-MAX_UNWATCHED:]]
    assert store.get("run1") is watched and store.get("run2") is None
    assert runs[0].frames.closed and not runs[0].folder.exists() and watched.folder.exists()
    many = [put(store, number, seen_ago=0) for number in range(100, 100 + MAX_ENDED)]
    store.delete_old()
    assert store.runs() == [waiting, *many], "disk and memory are finite, however many runs are watched"
    store.clear()
    assert not store.folder.exists()


def test_a_finished_run_outlives_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ResultStore(tmp_path)
    run = put(store, 1)
    run.video_path = run.folder / "clip.mp4"
    run.video_path.write_bytes(b"video")
    run.source = some_video(5)
    run.peak_bytes, run.decode_seconds, run.started, run.finished = [1, 2], 0.5, 10.0, 11.0
    save_run(run)
    unfinished = put(store, 2)  # not saved
    (unfinished.folder / "part.mp4").write_bytes(b"video")
    broken = put(store, 3)
    (broken.folder / "run.json").write_text("{}")

    (found,) = ResultStore(tmp_path).runs()
    assert (found.id, found.owner, found.name, found.job) == (run.id, "ann", "1.pt", run.job)
    assert found.status == "finished" and found.ended and "restarted" in found.message
    assert found.video_path is not None and found.video_path.read_bytes() == b"video"
    assert found.latent_path is None and found.frames.closed and found.done == {"decode": 2}
    assert (found.peak_bytes, found.decode_seconds, found.finished) == ([1, 2], 0.5, 11.0)
    (record,) = caplog.records  # of the broken one: that a run had not finished is no error
    assert record.getMessage() == "a finished run could not be restored, and is deleted: KeyError: 'job'"
    assert not broken.folder.exists() and not unfinished.folder.exists()
