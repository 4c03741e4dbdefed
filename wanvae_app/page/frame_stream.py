"""A clip's frames as a stream of records, for one viewer, while they are being made.

A record is 16 bytes and a JPEG: index (u32), length of the JPEG in bytes (u32), time (f64, seconds from the run's
start until the frame was there), all little-endian.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import struct
from collections.abc import AsyncIterator, Iterator

from PIL import Image

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job_state import JobState

RECORD_HEADER = struct.Struct("<IId")  # index, length, time
SEEN_INTERVAL = 1.0  # seconds between two calls of `run.seen()` while no frame comes
TAKING_SECONDS = 60.0  # that a viewer may take for one frame; 300 KB come over 40 kbit/s in that time
JPEG_QUALITY = 90  # with full colour resolution: visually clean, 1.5 ms for a frame of 480x832


async def stream_records(log: FrameLog, start: int, run: JobState) -> AsyncIterator[bytes]:
    """Yield one record per frame, from frame `start` on, until the log is finished or closed.

    A frame is encoded when the viewer takes it, so a slow viewer delays nobody else. The run counts as watched while
    the viewer waits for frames, and while it takes one, for TAKING_SECONDS at most.
    """
    index = start
    while True:
        run.seen()
        finished = log.finished  # read before the length: the last frames may come in between
        if index < len(log):
            try:
                record = await asyncio.to_thread(encode_record, log, index, run)
            except ValueError:  # the frames were deleted meanwhile
                return
            with seen_meanwhile(run, TAKING_SECONDS):
                yield record
            index += 1
        elif finished:
            return
        else:
            await wait_for_frame(log, index, SEEN_INTERVAL)


@contextlib.contextmanager
def seen_meanwhile(run: JobState, seconds: float) -> Iterator[None]:
    """Call `run.seen()` every SEEN_INTERVAL while the context is open, for `seconds` at most."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    timer: asyncio.TimerHandle | None = None

    def see() -> None:
        nonlocal timer
        run.seen()
        timer = loop.call_later(SEEN_INTERVAL, see) if loop.time() < end else None

    timer = loop.call_later(SEEN_INTERVAL, see)
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


async def wait_for_frame(log: FrameLog, index: int, timeout: float) -> None:
    """Wait until frame `index` exists, the log is finished or closed, or `timeout` seconds have passed."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def notify() -> None:
        # A closed loop means that the server is ending, which is no reason for the run to fail.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(changed.set)

    with log.listener(notify):
        if index < len(log) or log.finished:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await changed.wait()


def encode_record(log: FrameLog, index: int, run: JobState) -> bytes:
    """Encode one frame as a record. Raises ValueError if the log is closed, IndexError for no such frame."""
    data = io.BytesIO()
    Image.fromarray(log.read_seen(index, index + 1)[0]).save(
        data, "JPEG", quality=JPEG_QUALITY, subsampling=0
    )
    jpeg = data.getvalue()
    start = run.started if run.started is not None else math.inf  # frames of a source exist before the start
    return RECORD_HEADER.pack(index, len(jpeg), max(0.0, log.times[index] - start)) + jpeg
