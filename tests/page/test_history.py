"""History: who may go on unwatched for how long, the tables of ended runs, and what is compared with what."""

from __future__ import annotations

import math
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.app_runner import wait_for

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import Job, JobKind
from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.jobs.result_store import WATCHED_SECONDS
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.unread_input import UnreadInput
from wanvae_app.page import history as history_module
from wanvae_app.page.entry import HistoryEntry, RunInput
from wanvae_app.page.history import History
from wanvae_app.page.run_json import state_json
from wanvae_app.page.unwatched import QUEUED_FACTOR, follow_until_end

TIMEOUT = 20.0  # seconds; only a failing test waits so long
IDS = count()


class Runs:
    """In place of a JobService: keeps what is submitted, and does nothing with it."""

    folder = Path()
    vae = SimpleNamespace(name="tiny")

    def __init__(self) -> None:
        self.kept: dict[str, JobState] = {}
        self.store = SimpleNamespace(delete=lambda run: self.kept.pop(run.id))

    def submit(self, run: JobState) -> None:
        self.kept[run.id] = run

    def get(self, run_id: str) -> JobState | None:
        return self.kept.get(run_id)

    def runs(self) -> list[JobState]:
        return list(self.kept.values())


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def history(runs: Runs) -> History:
    return History(cast(JobService, runs))


def new_run(owner: str = "ann", source: FrameLog | None = None, vae: str = "") -> JobState:
    kind = JobKind.DECODE if source is None else JobKind.ROUNDTRIP
    job = Job(str(next(IDS)), kind, LatentShape(16, 1, 1, 1), 1, True, vae)
    return JobState(job, folder=Path(), frames=FrameLog(8, 8), num_frames=1, owner=owner, source=source)


def one_frame(value: int) -> np.ndarray:
    return np.full((1, 8, 8, 3), value, np.uint8)


def finish(
    entry: HistoryEntry, seconds: float = 1.0, value: int = 0, status: Status = Status.FINISHED
) -> None:
    """End a run that took so many seconds, with one frame of this value, and wait until its entry is settled."""
    run = entry.run
    run.started = 100.0
    run.frames.append(one_frame(value))
    run.frames.times[0] = run.first_frame = 100.0 + seconds
    run.frames.finish()
    run.change(status=status, finished=100.0 + seconds)
    wait_for(lambda: entry.settled, TIMEOUT)


def settle(history: History, digest: str = "a", owner: str = "ann", **result: Any) -> HistoryEntry:
    """Start a run of this input and end it."""
    entry = history.submit(new_run(owner), RunInput(digest))
    finish(entry, **result)
    return entry


def test_an_unwatched_run_is_stopped_and_says_why() -> None:
    run = new_run()
    run.change(status=Status.RUNNING)
    run.on_stop = lambda run: run.change(status=Status.STOPPED)
    run.last_seen = time.monotonic() - 7
    follow_until_end(run, seconds=6)
    assert run.stop_reason == "no page had asked for it for 6 s"


def test_a_queued_run_may_go_unwatched_for_longer(history: History) -> None:
    entry = history.submit(new_run(), RunInput("a"))
    entry.run.last_seen = time.monotonic() - (QUEUED_FACTOR - 1) * history.unwatched_seconds
    entry.run.change()
    time.sleep(0.2)
    assert not entry.run.stop_requested
    entry.run.last_seen = time.monotonic() - (QUEUED_FACTOR + 1) * history.unwatched_seconds
    wait_for(lambda: entry.run.stop_requested, TIMEOUT)
    assert entry.run.stop_reason == "no page had asked for it for 30 s"
    finish(entry, status=Status.STOPPED)


def test_runs_are_numbered_by_owner(history: History) -> None:
    numbers = [settle(history, owner=owner).number for owner in ("ann", "bob", "ann", "ann", "bob")]
    assert numbers == [1, 1, 2, 3, 2]


def test_a_table_holds_the_ended_runs_of_one_owner_and_input(history: History) -> None:
    first = settle(history, seconds=2.0)
    settle(history, digest="b")
    settle(history, owner="bob")
    last = settle(history, seconds=4.0, status=Status.FAILED)
    rows = history.rows(first)
    assert rows == history.rows(last)
    found = [(row["number"], row["state"], row["seconds"], row["first"], row["rate"]) for row in rows]
    assert found == [(1, "finished", 2.0, 2.0, 0.5), (3, "failed", 4.0, 4.0, 0.25)]
    assert history.rows(HistoryEntry(new_run(), RunInput("never run"), 1)) == []


def test_tables_are_limited(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_ROWS", 2)
    monkeypatch.setattr(history_module, "MAX_TABLES", 2)
    monkeypatch.setattr(history_module, "MAX_OWNERS", 1)
    a = [settle(history, "a") for _ in range(3)]
    assert [row["number"] for row in history.rows(a[0])] == [2, 3]
    b = settle(history, "b")
    settle(history, "a")
    c = settle(history, "c")
    assert history.rows(b) == [], "the one that nobody has added to for longest"
    assert len(history.rows(a[0])) == 2 and len(history.rows(c)) == 1
    assert settle(history, owner="bob").number == settle(history, owner="ann").number == 1


def fail_unread(history: History) -> HistoryEntry:
    """Start a run whose input turns out to be no clip."""
    run = new_run()
    run.unread = cast(UnreadInput, object())
    entry = history.submit(run, RunInput(""))
    run.change(status=Status.FAILED)
    wait_for(lambda: entry.settled, TIMEOUT)
    return entry


def test_the_number_of_a_listed_run_is_not_given_again(history: History, runs: Runs) -> None:
    """A run that is refused at the click is deleted, and gives its number back; one that fails later is listed."""
    first = fail_unread(history)
    refused = fail_unread(history)
    assert (first.number, refused.number) == (1, 2)
    history.delete(refused)
    assert settle(history).number == 2
    assert sorted(row["number"] for row in history.listed("ann")) == [1, 2]


def test_a_failed_run_stays_while_a_page_lists_it(history: History, runs: Runs) -> None:
    failed, finished = fail_unread(history), settle(history)
    for entry in (failed, finished):
        entry.run.last_seen = 0.0
    history.listed("bob")
    assert failed.run.last_seen == 0.0
    history.listed("ann")
    assert time.monotonic() - failed.run.last_seen < WATCHED_SECONDS
    assert finished.run.last_seen == 0.0, "the archive keeps it"


def test_a_run_is_compared_with_the_finished_one_before_of_the_same_input(history: History) -> None:
    assert settle(history, seconds=9.0, value=9).comparison is None
    settle(history, seconds=3.0, value=7)
    settle(history, digest="b")
    settle(history, owner="bob")
    settle(history, status=Status.FAILED)
    entry = settle(history, seconds=1.5, value=4)
    assert entry.comparison == {
        "before": 2,
        "after": 5,
        "parallel": [True, True],
        "cold": [False, False],
        "vae": ["", ""],
        "speedup": 2.0,
        "max_abs": 3,
        "frame": 0,
        "row": 0,
        "column": 0,
        "num_different": 64,
        "num_pixels": 64,
    }


def test_runs_by_different_vaes_are_compared_if_their_frames_are_of_one_size(history: History) -> None:
    for vae in ("full", "light"):
        entry = history.submit(new_run(vae=vae), RunInput("a"))
        finish(entry)
    assert entry.comparison is not None and entry.comparison["vae"] == ["full", "light"]
    assert [row["vae"] for row in history.rows(entry)] == ["full", "light"]
    larger = history.submit(new_run(vae="upscaling"), RunInput("a"))
    larger.run.size = 16, 16
    finish(larger)
    assert larger.comparison is not None and larger.comparison["refusal"] == (
        "The frames of run 2 (8x8) and run 3 (16x16) are not compared: they are of two sizes."
    )


def test_a_deleted_run_is_forgotten_and_not_compared(history: History, runs: Runs) -> None:
    first = settle(history)
    assert history.get(first.run.id) is first
    del runs.kept[first.run.id]
    first.run.close()
    assert history.get(first.run.id) is None and history.get("never") is None
    assert settle(history).comparison is None and len(history.rows(first)) == 2


def test_no_comparison_is_tried_without_the_earlier_frames(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    settle(history).run.close()
    assert settle(history).comparison is None
    assert caplog.records == [], "that is no fault"


def test_frames_that_are_deleted_meanwhile_cost_the_comparison_only(history: History) -> None:
    settle(history)
    entry = history.submit(new_run(), RunInput("a"))
    entry.run.close()
    entry.run.change(status=Status.FINISHED)
    wait_for(lambda: entry.settled, TIMEOUT)
    assert entry.comparison is None and len(history.rows(entry)) == 2


@pytest.mark.parametrize(("value", "decibels"), [(5, math.inf), (15, 10 * math.log10(255**2 / 100))])
def test_a_roundtrip_is_compared_with_its_source(history: History, value: int, decibels: float) -> None:
    source = FrameLog(8, 8)
    source.append(one_frame(5))
    source.finish()
    entry = history.submit(new_run(source=source), RunInput("video"))
    finish(entry, value=value)
    assert entry.psnr == pytest.approx(decibels)
    assert state_json(entry)["psnr"] == ("inf" if decibels == math.inf else pytest.approx(decibels))


def test_the_rate_leaves_out_what_encoding_took() -> None:
    entry = HistoryEntry(new_run(), RunInput("a"), 1)
    assert entry.frames_per_second is entry.seconds is entry.first_frame_seconds is None
    run = entry.run
    run.started, run.encode_seconds = 10.0, 3.0
    run.frames.append(np.repeat(one_frame(0), 4, 0))
    run.frames.times[:] = [14.0, 14.0, 15.0, 15.0]
    assert entry.frames_per_second == 2.0


def test_the_first_run_of_a_size_is_known_to_be_cold(history: History) -> None:
    first, second = settle(history), settle(history)
    assert (first.is_cold, second.is_cold) == (True, False)
    assert second.comparison is not None and second.comparison["cold"] == [True, False]
