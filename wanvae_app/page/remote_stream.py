"""Frames for a program while they are decoded: the records of frame_stream.py, exact if asked, and a last one.

docs/remote.md describes them.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator

import numpy as np
from PIL import Image

from wanvae_app.jobs.job_state import JobState, Status
from wanvae_app.page.frame_stream import (
    RECORD_HEADER,
    TAKING_SECONDS,
    encode_record,
    seen_meanwhile,
    wait_for_frame,
)
from wanvae_app.page.remote_lease import LOOK_SECONDS, SETTLE_SECONDS, is_coded
from wanvae_app.page.remote_request import ImageFormat

END_INDEX = 2**32 - 1  # of a stream's last record, which holds JSON
PNG_LEVEL = 1  # fast; higher ones save little


async def remote_records(run: JobState, image_format: ImageFormat) -> AsyncIterator[bytes]:
    """Yield one record per frame, then one with the outcome. Ends without it if the frames were deleted meanwhile."""
    frames, index, started = run.frames, 0, run.started or 0.0
    while True:
        run.seen()
        finished = frames.finished  # read before the length: the last frames may come in between
        if index < len(frames):
            try:
                record = await asyncio.to_thread(frame_record, run, index, image_format)
            except ValueError:
                return
            with seen_meanwhile(run, TAKING_SECONDS):
                yield record
            index += 1
        elif finished:
            break
        else:
            await wait_for_frame(frames, index, LOOK_SECONDS)
    while not (run.ended or is_coded(run)):
        await asyncio.sleep(SETTLE_SECONDS)
    seconds = time.monotonic() - started
    if is_coded(run):
        yield end_record(seconds, state=Status.FINISHED)
    else:
        yield end_record(seconds, state=run.status, detail=run.message)


def frame_record(run: JobState, index: int, image_format: ImageFormat) -> bytes:
    """Return one decoded frame as a record of frame_stream.py. Raises ValueError if the frames were deleted."""
    if image_format == ImageFormat.JPG:
        return encode_record(run.frames, index, run)
    pixels = run.frames.read(index, index + 1)[0]
    payload = pixels.tobytes() if image_format == ImageFormat.RAW else _png(pixels)
    return (
        RECORD_HEADER.pack(index, len(payload), max(0.0, run.frames.times[index] - (run.started or 0.0)))
        + payload
    )


def end_record(seconds: float, **facts: object) -> bytes:
    """Return a stream's last record."""
    payload = json.dumps(facts).encode()
    return RECORD_HEADER.pack(END_INDEX, len(payload), seconds) + payload


def _png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=PNG_LEVEL)
    return data.getvalue()
