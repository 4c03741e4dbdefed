"""The order of queued runs, and runs that are stopped while they wait."""

from __future__ import annotations

from pathlib import Path

from support.ranked_jobs import on_ranks, wait_until_ended
from support.tiny import some_latent

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.fair_queue import FairQueue
from wanvae_app.jobs.job import Job, JobKind
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.jobs.service import JobService


def make_run(owner: str, created: float) -> JobState:
    job = Job(f"{owner}{created}", JobKind.DECODE, LatentShape(16, 1, 1, 1), chunk=1, parallel=True)
    run = JobState(job, folder=Path(), frames=FrameLog(8, 8), num_frames=1, owner=owner)
    run.created = created
    return run


class Unread:
    """In place of an input that is not read yet."""


def test_only_runs_that_come_after_it_wait_for_one_whose_input_is_not_read() -> None:
    queue = FairQueue()
    first, second, other = (make_run("ann", t) for t in range(3))
    first.unread = Unread()  # type: ignore[assignment]
    second.after = first.id
    for run in (first, second):
        queue.add(run)
    assert not queue.has_ready
    queue.add(other)
    assert queue.start_next() is other and not queue.has_ready
    first.unread = None
    assert queue.start_next() is first and queue.start_next() is second
    third = make_run("ann", 3)
    third.after = first.id  # which has started
    queue.add(third)
    assert queue.start_next() is third


def test_owners_take_turns() -> None:
    queue = FairQueue()
    runs = [make_run("ann", t) for t in range(3)] + [
        make_run("bob", 3),
        make_run("eve", 4),
        make_run("bob", 5),
    ]
    queue.add(runs[0])
    assert queue.start_next() is runs[0]
    for run in runs[1:]:
        queue.add(run)
    places = {run.id: run.queue_place() for run in runs[1:]}
    assert places == {"bob3": 1, "eve4": 2, "ann1": 3, "bob5": 4, "ann2": 5}
    assert queue.remove(runs[4]) and not queue.remove(runs[4])
    assert runs[1].queue_place() == 2
    queue.end_current()
    assert runs[3].queue_place() == 0 and runs[1].queue_place() == 1, "the order stays as it was shown"
    queue.add(make_run("eve", 6))
    found = []
    while len(queue):
        found.append(queue.start_next().id)
        queue.end_current()
    assert found == ["bob3", "eve6", "ann1", "bob5", "ann2"]


def test_one_visitor_does_not_get_all_places() -> None:
    def fill(owner: str, address: str) -> tuple[int, str]:
        """Queue runs until one is refused; returns how many were not, and the refusal."""
        for number in range(100):
            run = make_run(owner if owner else f"session {number}", number)
            run.address = address
            if refusal := queue.refusal(run):
                return number, refusal
            queue.add(run)
        raise AssertionError("no limit")

    queue = FairQueue()
    advice = "; try again when some of them are done."
    own = f"8 of your runs are waiting already, as many as one visitor may have{advice}"
    assert fill("ann", "") == (8, own)
    assert fill("bob", "10.0.0.7") == (8, own)
    near = f"16 runs from your address are waiting already, as many as may{advice}"
    assert fill("", "10.0.0.7") == (8, near), "as another visitor each time"
    assert fill("", "10.0.0.8") == (8, f"32 runs are waiting already{advice}")
    queue.start_next()
    assert not queue.refusal(make_run("eve", 200)) and queue.refusal(make_run("bob", 200)) == own


def stop_the_second_of_three(jobs: JobService) -> list[tuple[str, int]]:
    runs = [jobs.new_run(latent=some_latent(6), owner=owner, name=owner) for owner in "aab"]
    for run in runs:
        jobs.submit(run)
    assert jobs.health == "busy"
    runs[1].stop()
    assert runs[1].ended, "a queued run ends at once"
    for run in runs:
        wait_until_ended(run)
    assert [jobs.get(run.id) for run in runs] == runs and jobs.get("another") is None
    return [(run.status, len(run.frames)) for run in runs]


def test_a_queued_run_that_is_stopped_never_starts() -> None:
    first, second, third = on_ranks(1, stop_the_second_of_three)
    assert first == third == ("finished", 21)
    assert second == ("stopped", 0)
