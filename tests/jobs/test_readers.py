"""Inputs are read beside the decoding: small ones overtake, Stop works at once, waiting ones are not read ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from support.app_runner import wait_for
from support.inputs import DirectedVideo, ReadyLatent
from support.ranked_jobs import wait_until_ended
from support.tiny import tiny_vae

from wanvae_app.jobs.job import JobKind
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.readers import MAX_PLANNING
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.unread_input import InputPlan, UnreadInput
from wanvae_app.page import unwatched
from wanvae_app.page.entry import RunInput
from wanvae_app.page.history import History
from wanvae_app.page.run_json import state_json
from wanvae_app.parallel.process_group import Group


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobService]:
    jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    yield jobs
    jobs.close()
    assert not jobs.folder.exists()


def submit(jobs: JobService, unread: UnreadInput, owner: str = "ann") -> JobState:
    kind = JobKind.ROUNDTRIP if isinstance(unread, DirectedVideo) else JobKind.DECODE
    run = jobs.new_unread_run(unread, kind, chunk=1, parallel=True, owner=owner)
    jobs.submit(run)
    return run


def num_folders(jobs: JobService) -> int:
    return len(list(jobs.folder.glob("run-*")))


def test_a_small_input_overtakes_those_that_are_still_being_read(jobs: JobService) -> None:
    videos = [DirectedVideo(f"{i}.mp4") for i in range(4)]
    runs = [submit(jobs, video) for video in videos]
    wait_for(lambda: any(video.begun.is_set() for video in videos), 10)
    start = time.monotonic()
    tiny = wait_until_ended(submit(jobs, ReadyLatent("tiny.pt")))
    assert tiny.status == "finished" and time.monotonic() - start < 5
    assert [run.status for run in runs] == ["queued"] * 4
    for video in videos:
        video.allowed.set()
    for run in runs:
        wait_until_ended(run)
        assert (run.status, run.num_frames, len(run.frames)) == ("finished", 5, 5), run.message
        assert run.source is not None and run.fps == 12.0


def test_what_waits_is_not_read_before_its_turn_comes_near(jobs: JobService) -> None:
    jobs.start = lambda: None  # type: ignore[method-assign]  # nothing is decoded
    videos = [DirectedVideo(f"{i}.mp4") for i in range(6)]
    for video in videos:
        video.allowed.set()
    runs = [submit(jobs, video) for video in videos]
    wait_for(lambda: sum(run.is_read for run in runs) == 2 and all(run.plan for run in runs), 10)
    time.sleep(0.2)
    read = [run for run in runs if run.is_read]
    assert len(read) == num_folders(jobs) == 2, "a run that waits takes no disk"
    read[0].stop()
    wait_for(lambda: sum(run.is_read for run in runs) == 3, 10)


def test_a_run_that_is_being_read_tells_how_far_it_is_and_stops_within_a_second(jobs: JobService) -> None:
    history = History(jobs)
    video = DirectedVideo("a.mp4")
    run = jobs.new_unread_run(video, JobKind.ROUNDTRIP, chunk=1, parallel=True, owner="ann")
    entry = history.submit(run, RunInput(""))
    first = state_json(entry)  # whether or not the header is read already
    assert (first["job"], first["name"], first["state"]) == (run.id, "a.mp4", "queued")
    assert video.begun.wait(5)
    state = state_json(entry)
    assert (state["state"], state["reading"], state["source"]) == ("queued", True, False)
    assert state["message"] == "Reading 1 of about 5 frames."
    assert (state["num_frames"], state["height"], state["width"]) == (9, 32, 32), "the upper bound"
    start = time.monotonic()
    run.stop()
    assert run.ended and run.message == "Stopped before it started."
    assert video.ended.wait(1) and time.monotonic() - start < 1
    wait_for(lambda: num_folders(jobs) == 0 and entry.settled, 5)
    assert history.rows(entry) == [] and state_json(entry)["reading"] is False
    assert wait_until_ended(submit(jobs, ReadyLatent("next.pt"))).status == "finished"


def test_a_stop_that_reading_does_not_heed_ends_the_run_all_the_same(jobs: JobService) -> None:
    class Deaf(DirectedVideo):
        def read(self, folder, on_progress, stopped):  # type: ignore[no-untyped-def]
            found = super().read(folder, on_progress, lambda: False)
            on_progress("Reading 5 of about 5 frames.")
            return found

    video = Deaf("a.mp4")
    run = submit(jobs, video)
    assert video.begun.wait(5)
    run.stop()
    assert run.ended
    assert wait_until_ended(submit(jobs, ReadyLatent("next.pt"))).status == "finished"
    video.allowed.set()
    wait_for(lambda: num_folders(jobs) == 1, 5)  # the latent's; what was read for nobody is deleted
    assert run.status == "stopped" and not run.is_read and run.message == "Stopped before it started."


def test_closing_the_tab_ends_reading(jobs: JobService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwatched, "CHECK_INTERVAL", 0.05)
    video = DirectedVideo("a.mp4")
    run = jobs.new_unread_run(video, JobKind.ROUNDTRIP, chunk=1, parallel=True, owner="ann")
    History(jobs, unwatched_seconds=0.5).submit(run, RunInput(""))
    assert video.begun.wait(5)
    wait_for(lambda: run.ended, 5)
    assert "no page had asked for it" in run.message and video.ended.wait(5)


def test_headers_that_take_long_do_not_keep_small_inputs_from_being_read(jobs: JobService) -> None:
    """Two slow headers, such as those of damaged files, leave the rest waiting for a short while only."""
    slow = [DirectedVideo(f"{i}.mp4") for i in range(MAX_PLANNING - 1)]
    original = DirectedVideo.plan

    def plan(video: DirectedVideo) -> InputPlan:
        video.allowed.wait(20)
        return original(video, lambda: False)

    for video in slow:
        video.plan = lambda stopped, video=video: plan(video)  # type: ignore[method-assign]
        submit(jobs, cast(UnreadInput, video))
    assert wait_until_ended(submit(jobs, ReadyLatent("tiny.pt")), 10).status == "finished"
    for video in slow:
        video.allowed.set()


def test_closing_the_app_ends_reading(tmp_path: Path) -> None:
    jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    videos = [DirectedVideo(f"{i}.mp4") for i in range(3)]
    runs = [submit(jobs, video) for video in videos]
    wait_for(lambda: any(video.begun.is_set() for video in videos), 10)
    jobs.close()
    assert all(run.status == "stopped" for run in runs) and not jobs.folder.exists()
