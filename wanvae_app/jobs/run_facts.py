"""What is known of an ended run besides its pixels, as JSON, and the run that is made from it later.

Times are stored as seconds since the run was created, and that in unix time: `time.monotonic` begins anew with each
start of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.job import Job, Phase
from wanvae_app.jobs.job_state import Activity, JobState, Status

MAX_SIDE = 16384  # pixels of a frame
MAX_FRAMES = 100_000
# Attributes of a JobState, and the types that JSON may give them.
FACTS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "message": (str,),
    "decoder_warning": (str,),
    "fps": (int, float),
    "num_frames": (int,),
    "num_ranks": (int,),
    "created_at": (int, float),
    "peak_bytes": (list,),
    "encode_seconds": (int, float, type(None)),
    "decode_seconds": (int, float, type(None)),
}
TIMES = ("started", "first_frame", "finished")

# Makes a log of frames from height, width, the time of each frame, and for decoded frames their channels.
OpenFrames = Callable[..., FrameLog]


def facts_of(run: JobState) -> dict[str, Any]:
    """Return the facts of an ended run, without its owner and its files."""
    facts = {name: getattr(run, name) for name in FACTS}
    for name in TIMES:
        value = getattr(run, name)
        facts[name] = None if value is None else value - run.created
    facts["job"] = run.job.to_json()
    facts["status"] = run.status
    facts["size"] = list(run.size)
    facts["channels"] = run.frames.channels
    facts["done"] = {str(phase): count for phase, count in run.done.items()}
    facts["activity"] = [astuple(activity) for activity in run.activity]
    facts["frames"] = [seconds - run.created for seconds in run.frames.times]
    source = run.source
    facts["source"] = None if source is None else [source.height, source.width, len(source)]
    return facts


def run_from(
    facts: dict[str, Any], folder: Path, open_frames: OpenFrames, open_source: OpenFrames
) -> JobState:
    """Return the run that `facts_of` described. Raises ValueError, KeyError or TypeError for other facts."""
    for name, types in FACTS.items():
        if not isinstance(facts[name], types):
            raise TypeError(f"{name} is a {type(facts[name]).__name__}")
    height, width = _size(facts["size"])
    created = time.monotonic() - (time.time() - facts["created_at"])
    times = [created + float(seconds) for seconds in _at_most(facts["frames"], MAX_FRAMES)]
    source = None
    if facts["source"] is not None:
        *size, num_frames = facts["source"]
        if not 0 < num_frames <= MAX_FRAMES:
            raise ValueError(f"a source of {num_frames} frames")
        source = open_source(*_size(size), [created] * num_frames)
    status = Status(facts["status"])
    if not status.ended:
        raise ValueError(f"a run that is {status}")
    run = JobState(
        Job.from_json(facts["job"]),
        folder=folder,
        frames=open_frames(height, width, times, _channels(facts.get("channels", 3))),
        num_frames=facts["num_frames"],
        source=source,
    )
    for name in FACTS:
        setattr(run, name, facts[name])
    for name in TIMES:
        value = facts[name]
        setattr(run, name, None if value is None else created + float(value))
    run.size, run.created, run.status = (height, width), created, status
    run.phase = run.job.phases[-1]
    run.done = {Phase(phase): int(count) for phase, count in facts["done"].items()}
    run.activity = [
        Activity(rank, Phase(phase), chunk, *map(float, seconds))
        for rank, phase, chunk, *seconds in facts["activity"]
    ]
    return run


def _size(values: list[int]) -> tuple[int, int]:
    height, width = values
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ValueError(f"frames of {width}x{height}")
    return height, width


def _channels(value: int) -> int:
    if value not in (3, 4):
        raise ValueError(f"frames of {value} channels")
    return value


def _at_most(values: list[Any], limit: int) -> list[Any]:
    if len(values) > limit:
        raise ValueError(f"{len(values)} values where {limit} are allowed")
    return values
