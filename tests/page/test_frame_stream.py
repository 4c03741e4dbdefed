"""A viewer's stream of records: it follows the log without polling, ends with it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from support.page_server import frame_indices

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import Job, JobKind
from wanvae_app.jobs.job_state import JobState
from wanvae_app.jobs.latent_shape import LatentShape
from wanvae_app.page import frame_stream
from wanvae_app.page.frame_stream import RECORD_HEADER, stream_records, wait_for_frame

T = TypeVar("T")
NUM_VIEWERS = 50
TIMEOUT = 20.0  # seconds; only a failing test waits so long


def in_a_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a thread: the browser of other tests keeps a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@pytest.fixture
def run() -> JobState:
    """A run that has begun and has no frames yet; the test appends them."""
    job = Job("id", JobKind.DECODE, LatentShape(16, 5, 1, 1), chunk=1, parallel=False)
    run = JobState(job, folder=Path(), frames=FrameLog(8, 8), num_frames=17)
    run.started = time.monotonic()
    return run


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)


async def collect(run: JobState, start: int = 0, log: FrameLog | None = None) -> list[int]:
    """Watch a run to the end of the stream; returns the indices of the frames."""
    records = stream_records(run.frames if log is None else log, start, run)
    async with asyncio.timeout(TIMEOUT):
        return frame_indices(b"".join([record async for record in records]))


async def until_all_wait(log: FrameLog, num_viewers: int) -> None:
    """Wait until so many viewers wait for the log's next frame."""
    async with asyncio.timeout(TIMEOUT):
        while len(log._listeners) != num_viewers:
            await asyncio.sleep(0.001)


def test_many_viewers_get_every_frame_as_it_is_made(run: JobState) -> None:
    async def watch() -> None:
        viewers = [asyncio.create_task(collect(run, start)) for start in range(NUM_VIEWERS)]
        for _ in range(NUM_VIEWERS + 3):
            await until_all_wait(run.frames, NUM_VIEWERS)
            await asyncio.to_thread(run.frames.append, frames(1))
        await until_all_wait(run.frames, NUM_VIEWERS)
        assert threading.active_count() < num_threads + NUM_VIEWERS, "a thread for each viewer"
        await asyncio.to_thread(run.frames.finish)
        for start, viewer in enumerate(viewers):
            assert await viewer == list(range(start, NUM_VIEWERS + 3))

    num_threads = threading.active_count()
    in_a_loop(watch())
    assert run.frames._listeners == []


def test_a_frame_wakes_its_viewer_at_once(run: JobState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within less than the interval after which a stream looks by itself."""
    monkeypatch.setattr(frame_stream, "SEEN_INTERVAL", 3600.0)

    async def watch() -> None:
        viewer = asyncio.create_task(collect(run))
        for _ in range(3):
            await until_all_wait(run.frames, 1)
            await asyncio.to_thread(run.frames.append, frames(2))
        await until_all_wait(run.frames, 1)
        await asyncio.to_thread(run.frames.finish)
        assert await viewer == [0, 1, 2, 3, 4, 5]

    in_a_loop(watch())


def test_a_log_that_finishes_without_frames_ends_the_stream(run: JobState) -> None:
    async def watch() -> None:
        viewer = asyncio.create_task(collect(run))
        await until_all_wait(run.frames, 1)
        await asyncio.to_thread(run.frames.finish)
        assert await viewer == []
        assert await collect(run) == []  # one who comes later

    in_a_loop(watch())


def test_a_log_that_is_closed_ends_the_stream(run: JobState) -> None:
    async def watch() -> None:
        run.frames.append(frames(2))
        waiting = asyncio.create_task(collect(run))
        behind = stream_records(run.frames, 0, run)
        first = await anext(behind)
        await until_all_wait(run.frames, 1)
        await asyncio.to_thread(run.frames.close)
        assert await waiting == [0, 1]
        assert frame_indices(first) == [0] and [record async for record in behind] == []

    in_a_loop(watch())
    assert run.frames._listeners == []


def test_a_viewer_who_leaves_is_no_longer_told(run: JobState) -> None:
    async def watch() -> None:
        viewers = [asyncio.create_task(collect(run)) for _ in range(3)]
        await until_all_wait(run.frames, 3)
        viewers[1].cancel()
        await asyncio.wait([viewers[1]])
        assert viewers[1].cancelled() and len(run.frames._listeners) == 2
        run.frames.append(frames(1))
        run.frames.finish()
        assert [await viewers[0], await viewers[2]] == [[0], [0]]

    in_a_loop(watch())
    assert run.frames._listeners == []


def test_a_run_counts_as_watched_while_no_frame_comes(run: JobState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_stream, "SEEN_INTERVAL", 0.02)

    async def watch() -> None:
        viewer = asyncio.create_task(collect(run))
        for _ in range(5):
            run.last_seen = 0.0
            async with asyncio.timeout(TIMEOUT):
                while run.last_seen == 0.0:
                    await asyncio.sleep(0.001)
        run.frames.finish()
        assert await viewer == []

    in_a_loop(watch())


def test_a_run_counts_as_watched_while_a_frame_is_taken(
    run: JobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a viewer on a slow line; but not for ever by one who takes nothing, and not by one who has left."""
    monkeypatch.setattr(frame_stream, "SEEN_INTERVAL", 0.01)
    monkeypatch.setattr(frame_stream, "TAKING_SECONDS", 0.3)

    async def is_seen() -> bool:
        run.last_seen = 0.0
        await asyncio.sleep(0.1)
        return run.last_seen != 0.0

    async def watch() -> None:
        records = stream_records(run.frames, 0, run)
        for _ in range(2):
            await anext(records)
            assert await is_seen() and await is_seen()
        await asyncio.sleep(0.3)
        assert not await is_seen()
        await anext(records)
        assert await is_seen()
        await records.aclose()  # type: ignore[attr-defined]
        assert not await is_seen()

    run.frames.append(frames(4))
    in_a_loop(watch())


def test_frames_that_come_with_the_end_are_not_missed(run: JobState) -> None:
    """The last frames and the end come just after the stream has asked for the length."""

    class LateLog(FrameLog):
        def __len__(self) -> int:
            length = super().__len__()
            if length == 0:
                self.append(frames(2))
                self.finish()
            return length

    assert in_a_loop(collect(run, log=LateLog(8, 8))) == [0, 1]


def test_a_frame_that_came_before_the_wait_ends_it_at_once(run: JobState) -> None:
    run.frames.append(frames(1))
    in_a_loop(asyncio.wait_for(wait_for_frame(run.frames, 0, timeout=3600.0), TIMEOUT))


def test_a_server_that_has_ended_does_not_disturb_the_writer(run: JobState) -> None:
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(wait_for_frame(run.frames, 0, TIMEOUT))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(loop.run_until_complete, until_all_wait(run.frames, 1)).result()
    loop.close()
    run.frames.append(frames(1))
    assert len(run.frames) == 1 and not waiting.done()
    waiting.get_coro().close()  # type: ignore[union-attr]
    assert run.frames._listeners == []


def test_times_count_from_the_start_of_the_run(run: JobState) -> None:
    async def times() -> list[float]:
        records: AsyncIterator[bytes] = stream_records(run.frames, 0, run)
        return [RECORD_HEADER.unpack_from(record)[2] for record in [record async for record in records]]

    run.frames.append(frames(2))
    run.frames.finish()
    run.frames.times[:] = [100.0, 102.5]
    run.started = 98.0
    assert in_a_loop(times()) == [2.0, 4.5]
    run.started = None  # a video's own frames exist before the run starts
    assert in_a_loop(times()) == [0.0, 0.0]
