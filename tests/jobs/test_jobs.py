"""Jobs on real ranks without the page: what is decoded, stopped, queued and refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.ranked_jobs import finish, on_ranks, pixels
from support.tiny import some_latent, some_video, tiny_vae

from wanvae_app import codec
from wanvae_app.codec import decode_chunks, encode_chunks
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs import service as jobs_module
from wanvae_app.jobs import worker as work
from wanvae_app.jobs.fair_queue import FairQueue
from wanvae_app.jobs.job import Job, JobState
from wanvae_app.jobs.service import JobService
from wanvae_app.memory_estimate import activation_bytes
from wanvae_app.model.pixels import from_uint8, to_uint8
from wanvae_app.model.vae import WanVAE
from wanvae_app.parallel.process_group import Group


def decoded(vae: WanVAE, latent: torch.Tensor) -> np.ndarray:
    return torch.cat([to_uint8(frames) for frames in decode_chunks(vae, [latent])]).numpy()


# What is decoded


def decode_in_several_ways(jobs: JobService) -> list[np.ndarray]:
    results = []
    for chunk, parallel in ((1, True), (3, True), (99, True), (2, False)):
        run = jobs.new_run(latent=some_latent(4), chunk=chunk, parallel=parallel, name="a")
        jobs.submit(run)
        finish(run)
        assert run.status == "finished", run.message
        num_ranks = min(4, jobs.group.size) if parallel else 1
        assert run.num_ranks == num_ranks and len(run.frames) == run.num_frames == 13
        assert run.frames.finished and run.progress == (4, 4)
        chunks = 1 + -(-3 // run.job.chunk)  # the first latent frame comes alone
        assert [(a.rank, a.chunk) for a in run.activity] == [
            (rank, i) for i in range(chunks) for rank in range(num_ranks)
        ]
        assert all(a.compute_seconds > 0 and a.wait_seconds >= 0 for a in run.activity)
        assert run.started <= run.first_frame <= run.finished
        assert len(run.peak_bytes) == jobs.group.size and all(run.peak_bytes[:num_ranks])
        results.append(pixels(run))
    return results


@pytest.mark.parametrize("size", [1, 2, 5])
def test_frames_are_those_of_one_rank(size: int) -> None:
    expected = decoded(tiny_vae(torch.float64), some_latent(4))
    for frames in on_ranks(size, decode_in_several_ways):
        assert np.array_equal(frames, expected)


def round_trips(jobs: JobService) -> list[tuple[np.ndarray, torch.Tensor]]:
    """One whose chunks are decoded as they come, and one for which there is not the memory."""
    found = []
    for enough in (True, False):
        if not enough:
            work.refusal = lambda *what, interleaved: "no room" if interleaved else ""  # on rank 0 alone
        run = jobs.new_run(source=some_video(13), chunk=2)
        jobs.submit(run)
        finish(run)
        assert run.status == "finished", run.message
        assert run.encode_seconds > 0 and run.decode_seconds > 0
        steps = [(a.phase, a.chunk) for a in run.activity if a.rank == 0]
        encoded, decoded = ([(phase, chunk) for chunk in range(3)] for phase in ("encode", "decode"))
        interleaved = [step for pair in zip(encoded, decoded, strict=True) for step in pair]
        assert steps == (interleaved if enough else encoded + decoded)
        found.append((pixels(run), run.latent))
    return found


def test_a_round_trip_is_that_of_one_rank() -> None:
    vae = tiny_vae(torch.float64)
    video = from_uint8(torch.from_numpy(some_video(13).read(0, 13)), torch.float64)
    expected = torch.cat(list(encode_chunks(vae, [video])), 2)
    for frames, latent in on_ranks(2, round_trips):
        assert latent.dtype == torch.float64 and (latent - expected).norm() <= 1e-12 * expected.norm()
        assert np.array_equal(frames, decoded(vae, expected))


# Stop


def stop_and_go(jobs: JobService) -> list[tuple[str, int]]:
    outcomes = []
    for source in (None, some_video(49)):
        latent = some_latent(13) if source is None else None
        run = jobs.new_run(latent=latent, source=source, chunk=1)
        jobs.submit(run)
        while run.done[run.job.phases[0]] < 2:
            run.wait(1)
        run.stop()
        finish(run)
        assert run.done[run.job.phases[0]] < 13, "it went on to the end"
        outcomes.append((run.status, len(run.frames)))
    run = jobs.new_run(latent=some_latent(2))
    jobs.submit(run)
    outcomes.append((finish(run).state, len(run.frames)))
    return outcomes


def test_stop_ends_a_run_on_all_ranks_and_the_next_one_works() -> None:
    stopped, there_and_back, after = on_ranks(2, stop_and_go)
    assert stopped[0] == there_and_back[0] == "stopped"
    assert 0 < stopped[1] < 49 and 0 < there_and_back[1] < 49
    assert after == ("finished", 5)


# The queue


def make_run(owner: str, created: float) -> JobState:
    job = Job(f"{owner}{created}", "decode", (16, 1, 1, 1), 1, True)
    run = JobState(job, folder=Path(), frames=FrameLog(8, 8), num_frames=1, owner=owner)
    run.created = created
    return run


def test_turns_are_fair() -> None:
    turns = FairQueue()
    runs = [make_run("ann", t) for t in range(3)] + [
        make_run("bob", 3),
        make_run("eve", 4),
        make_run("bob", 5),
    ]
    turns.add(runs[0])
    assert turns.next() is runs[0]
    for run in runs[1:]:
        turns.add(run)
    places = {run.id: run.queue_place() for run in runs[1:]}
    assert places == {"bob3": 1, "eve4": 2, "ann1": 3, "bob5": 4, "ann2": 5}
    assert turns.remove(runs[4]) and not turns.remove(runs[4])
    assert runs[1].queue_place() == 2
    turns.done()
    assert runs[3].queue_place() == 0 and runs[1].queue_place() == 1, "what was said of places stays true"
    turns.add(make_run("eve", 6))
    found = []
    while len(turns):
        found.append(turns.next().id)
        turns.done()
    assert found == ["bob3", "eve6", "ann1", "bob5", "ann2"]


def queue_up(jobs: JobService) -> list[tuple[str, int]]:
    runs = [jobs.new_run(latent=some_latent(6), owner=owner, name=owner) for owner in "aab"]
    for run in runs:
        jobs.submit(run)
    assert jobs.health == "busy"
    runs[1].stop()
    assert runs[1].ended, "a queued run ends at once"
    for run in runs:
        finish(run)
    assert [jobs.get(run.id) for run in runs] == runs and jobs.get("another") is None
    return [(run.status, len(run.frames)) for run in runs]


def test_a_queued_run_that_is_stopped_never_starts() -> None:
    first, second, third = on_ranks(1, queue_up)
    assert first == third == ("finished", 21)
    assert second == ("stopped", 0)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"latent": torch.zeros(1, 4, 2, 4, 4)}, "16"),
        ({"latent": torch.zeros(2, 16, 2, 4, 4)}, r"\[2, 16, 2, 4, 4\]"),
        ({"latent": torch.zeros(1, 16, 0, 4, 4)}, "cannot be decoded"),
        ({"latent": torch.full((1, 16, 1, 2, 2), torch.nan)}, "NaN"),
        ({"latent": torch.zeros(1, 16, 1, 2, 2), "chunk": 0}, "1 or more"),
        ({"source": some_video(4)}, "1 \\+ 4"),
        ({"source": some_video(5, 30, 32)}, "multiples of 8"),
    ],
)
def test_what_this_vae_cannot_take_is_refused(
    arguments: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    jobs = JobService(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    with pytest.raises(ValueError, match=sentence):
        jobs.new_run(**arguments)


def one_byte_short(group: Group) -> None:
    """Rank 1 has a byte less free than three latent frames at a time would take; rank 0 has plenty."""
    config = tiny_vae().config
    needed = activation_bytes(config, "decode", 7, 6, 4, 3, torch.float64, 2, 1)
    work.free_bytes = lambda device: needed - 1 if group.rank == 1 else None  # type: ignore[assignment]


def ask_for_too_much(jobs: JobService) -> list[tuple[str, str, int, int]]:
    outcomes = []
    for chunk in (3, 1):
        run = jobs.new_run(latent=some_latent(7, 6, 4), chunk=chunk)
        jobs.submit(run)
        finish(run)
        outcomes.append((run.status, run.message, len(run.frames), len(run.activity)))
    return outcomes


def test_one_rank_without_room_refuses_for_all() -> None:
    refused, smaller = on_ranks(2, ask_for_too_much, one_byte_short)
    assert refused[0] == "failed" and refused[2:] == (0, 0), "nothing has run"
    assert refused[1].startswith("Rank 1 would need 0.0 GiB for this and has 0.0 GiB free; ")
    assert refused[1].endswith("; 1 latent frame per chunk would fit.")
    assert smaller[0] == "finished" and smaller[2] == 25


def late(group: Group) -> None:
    """Rank 1 warms up for longer than a rank may be silent in a job."""
    assert group.watchdog is not None
    group.watchdog.silence = 2.0
    if group.rank == 1:
        jobs_module.warm_up = lambda _: time.sleep(6)


def decode_one(jobs: JobService) -> tuple[str, str]:
    jobs.start()
    run = jobs.new_run(latent=some_latent(1))
    jobs.submit(run)
    finish(run)
    return run.status, run.message


def test_a_rank_may_warm_up_longer_than_the_others() -> None:
    assert on_ranks(2, decode_one, late) == ("finished", "Finished.")


def raising(*_: object, **__: object) -> None:
    raise KeyError("what a compiler may raise")


def test_a_failure_of_warming_up_is_told_by_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU is pretended; nothing can be made there."""
    vae = tiny_vae()
    monkeypatch.setattr(type(vae), "device", torch.device("cuda"))
    monkeypatch.setattr(torch, "randn", raising)
    codec.warm_up(vae)
    assert "warming up failed" in caplog.text


def test_a_run_says_that_it_waits_for_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    monkeypatch.setattr(jobs_module, "warm_up", lambda *_: ready.wait(30))
    jobs = JobService(Group.join("cpu"), tiny_vae())
    jobs._warming = True  # as on a GPU
    try:
        run = jobs.new_run(latent=some_latent(1))
        jobs.submit(run)
        assert run.status == "queued" and run.place == 0 and "got ready" in run.message
        ready.set()
        finish(run)
        assert (run.status, run.message) == ("finished", "Finished.")
    finally:
        ready.set()
        jobs.close()
