"""Jobs on real ranks without the page: what is decoded, stopped, queued, refused, lost and left behind."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grouped import run_group
from tiny import some_latent, some_video, tiny_vae

from wanvae_app import work
from wanvae_app.codec import decode_chunks, encode_chunks, from_uint8, to_uint8
from wanvae_app.frames import FrameLog
from wanvae_app.group import Group
from wanvae_app.jobs import Jobs, follow
from wanvae_app.memory import activation_bytes
from wanvae_app.part import Part
from wanvae_app.results import Given, Results
from wanvae_app.run import Job, Run, Step
from wanvae_app.shard import Shard
from wanvae_app.turns import Turns
from wanvae_app.vae import WanVAE


def on_ranks(size: int, scene: Callable[[Jobs], Any], prepare: Callable[[Group], None] | None = None) -> Any:
    """What scene(jobs) returns on rank 0 while the other ranks follow; `prepare` first runs on all."""
    return run_group(size, _rank, scene, prepare)[0]


def _rank(group: Group, scene: Callable[[Jobs], Any], prepare: Callable[[Group], None] | None) -> Any:
    if prepare is not None:
        prepare(group)
    vae = tiny_vae(torch.float64)
    if group.rank > 0:
        return follow(group, vae)
    jobs = Jobs(group, vae)
    try:
        return scene(jobs)
    finally:
        folder = jobs.folder
        jobs.close()
        assert not folder.exists()


def finish(run: Run, timeout: float = 30) -> Run:
    """Wait until a run has ended."""
    version = None
    for _ in range(int(timeout / 0.1)):
        if run.ended:
            return run
        version = run.wait(0.1, version)
    raise TimeoutError(f"the run is still {run.state}: {run.message}")


def pixels(run: Run) -> np.ndarray:
    return run.frames.read(0, len(run.frames))


def decoded(vae: WanVAE, latent: torch.Tensor) -> np.ndarray:
    return torch.cat([to_uint8(frames) for frames in decode_chunks(vae, [latent])]).numpy()


# What is decoded


def decode_in_several_ways(jobs: Jobs) -> list[np.ndarray]:
    results = []
    for chunk, parallel in ((1, True), (3, True), (99, True), (2, False)):
        run = jobs.new_run(latent=some_latent(4), chunk=chunk, parallel=parallel, name="a")
        jobs.submit(run)
        finish(run)
        assert run.state == "finished", run.message
        num_ranks = min(4, jobs.group.size) if parallel else 1
        assert run.num_ranks == num_ranks and len(run.frames) == run.num_frames == 13
        assert run.frames.finished and run.progress == (4, 4)
        chunks = -(-4 // run.job.chunk)
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


def round_trip(jobs: Jobs) -> tuple[np.ndarray, torch.Tensor]:
    run = jobs.new_run(source=some_video(13), chunk=2)
    jobs.submit(run)
    finish(run)
    assert run.state == "finished", run.message
    assert run.encode_seconds > 0 and run.decode_seconds > 0
    assert {a.phase for a in run.activity} == {"encode", "decode"}
    return pixels(run), run.latent


def test_a_round_trip_is_that_of_one_rank() -> None:
    vae = tiny_vae(torch.float64)
    video = from_uint8(torch.from_numpy(some_video(13).read(0, 13)), torch.float64)
    expected = torch.cat(list(encode_chunks(vae, [video])), 2)
    frames, latent = on_ranks(2, round_trip)
    assert latent.dtype == torch.float64 and (latent - expected).norm() <= 1e-12 * expected.norm()
    assert np.array_equal(frames, decoded(vae, expected))


# Stop


def stop_and_go(jobs: Jobs) -> list[tuple[str, int]]:
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
        outcomes.append((run.state, len(run.frames)))
    run = jobs.new_run(latent=some_latent(2))
    jobs.submit(run)
    outcomes.append((finish(run).state, len(run.frames)))
    return outcomes


def test_stop_ends_a_run_on_all_ranks_and_the_next_one_works() -> None:
    stopped, encoding, after = on_ranks(2, stop_and_go)
    assert stopped[0] == encoding[0] == "stopped"
    assert 0 < stopped[1] < 49 and encoding[1] == 0
    assert after == ("finished", 5)


# The queue


def make_run(owner: str, created: float) -> Run:
    job = Job(f"{owner}{created}", "decode", (16, 1, 1, 1), 1, True)
    run = Run(job, folder=Path(), frames=FrameLog(8, 8), num_frames=1, owner=owner)
    run.created = created
    return run


def test_turns_are_fair() -> None:
    turns = Turns()
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
    assert runs[3].queue_place() == 1 and turns.next() is runs[1]  # ann's turn again: nobody has had one


def queue_up(jobs: Jobs) -> list[tuple[str, int]]:
    runs = [jobs.new_run(latent=some_latent(6), owner=owner, name=owner) for owner in "aab"]
    for run in runs:
        jobs.submit(run)
    assert jobs.health == "busy"
    runs[1].stop()
    assert runs[1].ended, "a queued run ends at once"
    for run in runs:
        finish(run)
    assert [jobs.get(run.id) for run in runs] == runs and jobs.get("another") is None
    return [(run.state, len(run.frames)) for run in runs]


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
    jobs = Jobs(Group(0, 1, torch.device("cpu")), tiny_vae(), tmp_path / "runs")
    with pytest.raises(ValueError, match=sentence):
        jobs.new_run(**arguments)


def one_byte_short(group: Group) -> None:
    """Rank 1 has a byte less free than three latent frames at a time would take; rank 0 has plenty."""
    config = tiny_vae().config
    needed = activation_bytes(config, "decode", 7, 6, 4, 3, torch.float64, 2, 1)
    work.free_bytes = lambda device: needed - 1 if group.rank == 1 else None  # type: ignore[assignment]


def ask_for_too_much(jobs: Jobs) -> list[tuple[str, str, int, int]]:
    outcomes = []
    for chunk in (3, 1):
        run = jobs.new_run(latent=some_latent(7, 6, 4), chunk=chunk)
        jobs.submit(run)
        finish(run)
        outcomes.append((run.state, run.message, len(run.frames), len(run.activity)))
    return outcomes


def test_one_rank_without_room_refuses_for_all() -> None:
    refused, smaller = on_ranks(2, ask_for_too_much, one_byte_short)
    assert refused[0] == "failed" and refused[2:] == (0, 0), "nothing has run"
    assert refused[1].startswith("Rank 1 would need 0.0 GiB for this and has 0.0 GiB free; ")
    assert refused[1].endswith("; 1 latent frames per chunk would fit.")
    assert smaller[0] == "finished" and smaller[2] == 25


# Faults


def rig(group: Group) -> None:
    """Faults by the number of latent frames: in the third chunk, on the rank and in the way that FAULTS says."""
    now: dict[str, Any] = {}

    def failing(where: str, function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if now.get("fault") == (group.rank, where):
                now.clear()
                raise RuntimeError(f"rigged {where}")
            return function(*args, **kwargs)

        return wrapped

    def take(self: Part, step: Step, original: Any = Part.take) -> None:
        if step.chunk == 2:
            now["fault"] = FAULTS.get(self.job.shape[1])
        original(self, step)

    from wanvae_app import part

    Shard.halo = failing("inside", Shard.halo)  # type: ignore[method-assign]
    part.gather = failing("gather", part.gather)
    part.scatter = failing("scatter", part.scatter)
    part.to_uint8 = failing("pixels", part.to_uint8)
    Part.take = failing("before", take)  # type: ignore[method-assign]
    FrameLog.append = failing("append", FrameLog.append)  # type: ignore[method-assign]
    Part.take = take  # type: ignore[method-assign]


FAULTS = {
    5 + rank * 6 + i: (rank, where)
    for rank in range(3)
    for i, where in enumerate(("inside", "scatter", "pixels", "gather", "append"))
    if not (where == "append" and rank)
}


def fail_and_go_on(jobs: Jobs) -> list[tuple[tuple[int, str], str, str, float]]:
    outcomes = []
    for num_latents, fault in FAULTS.items():
        if fault[0] >= jobs.group.size:
            continue
        source = some_video(4 * num_latents - 3) if fault[1] == "gather" else None
        latent = some_latent(num_latents) if source is None else None
        run = jobs.new_run(latent=latent, source=source, chunk=num_latents // 4)
        jobs.submit(run)
        finish(run)
        outcomes.append((fault, run.state, run.message, run.finished - run.started))
        run = jobs.new_run(latent=some_latent(2))
        jobs.submit(run)
        assert finish(run).state == "finished", f"after {fault}: {run.message}"
    return outcomes


def test_a_failure_names_rank_and_reason_and_the_next_run_works() -> None:
    for (rank, where), state, message, seconds in on_ranks(3, fail_and_go_on, rig):
        assert state == "failed" and seconds < 5
        assert f"Rank {rank} failed" in message and f"rigged {where}" in message, message
        assert "coding chunk" in message or where == "append"


# Files


def without_a_folder(jobs: Jobs) -> tuple[str, str, int]:
    shutil.rmtree(jobs.folder)
    jobs.folder.write_text("in the way")
    run = jobs.new_run(latent=some_latent(2))
    jobs.submit(run)
    finish(run)
    jobs.folder.unlink()
    return run.state, run.message, len(pixels(run))


def test_without_a_folder_the_frames_are_still_there() -> None:
    state, message, num_frames = on_ranks(1, without_a_folder)
    assert state == "finished" and num_frames == 5
    assert "kept in memory" in message and "could not be written" in message


# 200 runs


def resources(jobs: Jobs) -> dict[str, list[int]]:
    """What the processes hold, by rank."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what this process has freed, it has given back
    assert jobs.group.watch is not None
    store = jobs.group.watch.store
    pids = [store.get(f"process/{rank}").decode().split()[1] for rank in range(jobs.group.size)]
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return {
        "kilobytes": [int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in status],
        "threads": [len(os.listdir(f"/proc/{pid}/task")) for pid in pids],
        "files": [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids],
        "objects": [sum(isinstance(x, (Run, Part, FrameLog, torch.Tensor)) for x in gc.get_objects())],
        "folders": [len(list(jobs.folder.iterdir()))],
        "disk": [sum(path.stat().st_size for path in jobs.folder.rglob("*") if path.is_file())],
    }


def many_runs(jobs: Jobs) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Of eight runs, as a page starts them, three are stopped and one fails."""
    early, results = {}, Results(jobs)
    faults = [num_latents for num_latents, (rank, where) in FAULTS.items() if rank < 2 and where != "gather"]
    for number in range(200):
        fails = number % 8 == 7
        num_latents = faults[number // 8 % len(faults)] if fails else 1 + number % 3
        source = some_video(9) if number % 5 == 4 and not fails else None
        latent = some_latent(num_latents, 4 + number % 3) if source is None else None
        chunk = num_latents // 4 if fails else 1 + number % 2
        run = jobs.new_run(latent=latent, source=source, chunk=chunk, parallel=number % 7 != 0)
        entry = results.submit(run, Given(str(number)))
        if number % 2 and not fails:
            while run.state == "queued":
                run.wait(0.01)
            run.stop()
        finish(run)
        while not entry.settled:
            time.sleep(0.001)
        run.last_seen = -1e9  # nobody watches any more
        if number == 9:
            early = resources(jobs)
    return early, resources(jobs)


def test_200_runs_leave_nothing_behind() -> None:
    early, late = on_ranks(2, many_runs, rig)
    print("after the tenth and the last run:", early, late)
    # Not all of the runs that are kept have finished, and only those have files.
    slack = {"kilobytes": 20_000, "threads": 1, "files": 3, "objects": 6, "folders": 1, "disk": 50_000}
    for what, allowed in slack.items():
        for before, after in zip(early[what], late[what], strict=True):
            assert after <= before + allowed, (what, early, late)
