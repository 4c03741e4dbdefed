"""Disk and memory are granted before anything is read; what does not fit is refused in numbers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.app_runner import wait_for
from support.inputs import DirectedVideo, ReadyLatent
from support.ranked_jobs import wait_until_ended
from support.tiny import tiny_vae

from wanvae_app.config import PRESETS
from wanvae_app.jobs import budget as module
from wanvae_app.jobs.budget import amount, free_disk, needs_of, written_bytes
from wanvae_app.jobs.job import JobKind
from wanvae_app.jobs.job_state import JobState, Needs, Status
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.jobs.service import JobService
from wanvae_app.jobs.unread_input import InputPlan
from wanvae_app.parallel.process_group import Group

GB = 10**9


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobService]:
    """A service whose runs end as soon as their turn has come: nothing is decoded."""
    jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    jobs._do = lambda run: jobs._end(run, Status.FINISHED, "Finished.")  # type: ignore[method-assign]
    yield jobs
    jobs.close()


@pytest.fixture
def disk(jobs: JobService, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of disk that all runs together may take; to be changed in place."""
    total = [4 * GB]

    def free_disk(folder: Path) -> int:
        return total[0] - sum(map(written_bytes, jobs.runs()))

    monkeypatch.setattr(module, "free_disk", free_disk)
    return total


def submit(jobs: JobService, name: str, claimed: int, owner: str = "ann") -> tuple[JobState, DirectedVideo]:
    video = DirectedVideo(name, claimed)
    run = jobs.new_unread_run(video, JobKind.ROUNDTRIP, chunk=1, parallel=True, owner=owner)
    jobs.submit(run)
    return run, video


def finish(jobs: JobService, name: str, claimed: int, owner: str = "ann") -> JobState:
    run, video = submit(jobs, name, claimed, owner)
    video.allowed.set()
    return wait_until_ended(run)


def test_what_can_never_fit_is_refused_by_its_header(jobs: JobService, disk: list[int]) -> None:
    run, video = submit(jobs, "huge.gif", 2_400_000_000)
    wait_until_ended(run)
    assert run.refused and not video.begun.is_set()
    assert run.message == (
        "huge.gif needs about 2.4 GB of the server's disk, and 2.0 GB are free for you; "
        "cut it shorter, make it smaller, or try again later."
    )
    assert finish(jobs, "small.gif", GB).status == "finished"


def test_memory_is_refused_as_well(jobs: JobService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda device: 1000 + module.MEMORY_RESERVE)
    run = jobs.new_unread_run(
        ReadyLatent("big.pt"), JobKind.DECODE, chunk=1, parallel=True, owner="ann"
    )  # claims 1000 bytes
    jobs.submit(run)
    wait_until_ended(run)
    assert re.match(r"big\.pt needs about 1 kB of the server's memory, and 0 kB are free", run.message)


def test_a_visitor_has_a_share_and_runs_wait_for_room(jobs: JobService, disk: list[int]) -> None:
    first, reading = submit(jobs, "a.mp4", int(1.5 * GB))
    assert reading.begun.wait(5)
    second, waiting = submit(jobs, "b.mp4", int(1.5 * GB))
    wait_for(lambda: second.plan is not None, 5)
    reading.allowed.set()  # the first runs, and the second may be read ahead, if there is room
    wait_until_ended(first)
    waiting.allowed.set()
    assert wait_until_ended(second).status == "finished"


def test_a_run_that_has_to_wait_says_so(jobs: JobService, disk: list[int]) -> None:
    jobs.start = lambda: None  # type: ignore[method-assign]  # the first run stays queued
    first, video = submit(jobs, "a.mp4", int(1.5 * GB))
    video.allowed.set()
    wait_for(lambda: first.is_read, 5)
    second, waiting = submit(jobs, "b.mp4", int(1.5 * GB))
    wait_for(lambda: "room" in second.message, 5)
    assert second.message == "Waiting for room: it needs about 1.5 GB." and not waiting.begun.is_set()
    other, others = submit(jobs, "c.mp4", int(1.5 * GB), owner="bob")
    assert others.begun.wait(5), "another visitor has a share of his own"
    first.stop()
    others.allowed.set()
    assert waiting.begun.wait(5)
    second.stop()


def test_an_address_has_a_share_whoever_its_visitors_say_they_are(jobs: JobService, disk: list[int]) -> None:
    budget = module.Budget(jobs.store)

    def is_granted(owner: str, address: str, num_bytes: int) -> bool:
        unread = DirectedVideo(f"{owner}.mp4", num_bytes)
        run = jobs.new_unread_run(unread, JobKind.ROUNDTRIP, chunk=1, parallel=True, owner=owner)
        run.address = address
        jobs.store.add(run)
        return budget.grant(run, Needs(num_bytes, 0))

    assert [is_granted(owner, "10.0.0.1", GB) for owner in "abcd"] == [True, True, True, False]
    assert is_granted("e", "10.0.0.2", GB // 2), "another address has a share of its own"
    assert is_granted("f", "", GB // 4), "this machine's own address may be a proxy's for all"


def test_runs_of_a_short_share_go_first(jobs: JobService, disk: list[int]) -> None:
    strange = finish(jobs, "strange.mp4", 0, "eve")
    same = finish(jobs, "same.mp4", 0, "bob")
    same.address = "10.0.0.1"
    for ended, size in ((strange, GB // 2), (same, int(2.5 * GB))):
        assert ended.source is not None
        ended.source.times *= size // ended.source.num_bytes
        ended.last_seen = time.monotonic() - 1000
    new = finish(jobs, "new.mp4", 0)
    new.address = "10.0.0.1"
    assert module.Budget(jobs.store).grant(new, Needs(GB, 0))
    assert jobs.runs() == [strange, new], "the address's share was used up, not the disk"


def test_ended_runs_go_when_disk_is_short(jobs: JobService, disk: list[int]) -> None:
    seen, unseen = finish(jobs, "seen.mp4", GB, "bob"), finish(jobs, "unseen.mp4", GB, "eve")
    mine = finish(jobs, "mine.mp4", GB)
    unseen.last_seen = time.monotonic() - 1000
    assert len(jobs.runs()) == 3
    for ended in (seen, unseen, mine):  # as if each of them took a gigabyte
        assert ended.source is not None
        ended.source.times *= GB // ended.source.num_bytes
    budget, new = module.Budget(jobs.store), finish(jobs, "new.mp4", 0)
    with pytest.raises(ValueError, match="needs about 5.0 GB"):
        budget.grant(new, Needs(5 * GB, 0))
    assert budget.grant(new, Needs(GB // 2, 0))
    assert jobs.runs() == [seen, unseen, mine, new], "nothing is deleted in vain"
    disk[0] = int(3.5 * GB)
    assert budget.grant(new, Needs(int(0.7 * GB), 0))
    assert jobs.runs() == [seen, mine, new], "the run that nobody watched went first"
    assert budget.grant(new, Needs(int(1.5 * GB), 0))
    assert jobs.runs() == [seen, new], "the visitor's share was used up"
    assert not unseen.folder.exists() and seen.folder.exists()


def test_a_full_disk_is_refused_and_works_again_when_there_is_room(jobs: JobService, disk: list[int]) -> None:
    disk[0] = 0
    run = finish(jobs, "a.mp4", GB)
    assert run.refused and "and 0 kB are free for you" in run.message and "/" not in run.message
    disk[0] = 4 * GB
    assert finish(jobs, "a.mp4", GB).status == "finished"


def test_needs_count_all_that_a_run_writes() -> None:
    config = PRESETS["wan2.1"]
    shape = LatentShape(16, 3, 4, 5)
    frames = 9 * 32 * 40 * 3
    values = 16 * 3 * 4 * 5
    assert needs_of(InputPlan(shape, 0, 3, 4), config) == (frames + frames // 4 + 4 * values, 7)
    assert needs_of(InputPlan(shape, frames, 3, 4), config) == (2 * frames + frames // 4 + 4 * values, 7)


def test_amounts(tmp_path: Path) -> None:
    assert [amount(n) for n in (-1, 0, 35_400_000, 2_440_000_000)] == ["0 kB", "0 kB", "35.4 MB", "2.4 GB"]
    assert free_disk(tmp_path / "not" / "there") > 0
