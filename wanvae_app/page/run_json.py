"""A run as JSON for the page and the API: its present state, its row in the table and in the list of all runs, its
comparison with another run.

Times are in seconds, rates in frames per second, memory in bytes by rank.
"""

from __future__ import annotations

import math
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

from wanvae_app.page.borders import borders_of
from wanvae_app.page.compare import difference
from wanvae_app.page.entry import HistoryEntry


def state_json(entry: HistoryEntry, num_known: int = 0) -> dict[str, Any]:
    """The run's present state. Its first `num_known` activities are left out: the caller has them already."""
    run, job = entry.run, entry.run.job
    now = run.finished if run.finished is not None else time.monotonic()
    return {
        "job": run.id,
        "name": run.name,
        "kind": job.kind,
        "vae": job.vae,
        "number": entry.number,
        "state": run.status,
        "stopping": run.stop_requested and not run.ended,
        "reading": run.is_reading and not run.ended,
        "refused": run.refused,
        "message": run.message,
        "place": run.queue_place(),
        "phase": run.phase,
        "phases": {str(phase): [run.done[phase], job.shape[1]] for phase in job.phases},
        "frames": len(run.frames),
        "num_frames": run.num_frames,
        "height": run.size[0],
        "width": run.size[1],
        "source": run.source is not None and not run.source.closed,
        "fps": run.fps,
        "parallel": job.parallel,
        "ranks": run.num_ranks,
        "borders": borders_of(run).to_json(),
        "chunk": job.chunk,
        "latent": list(job.shape),
        "scaling": entry.input.scaling,
        "note": entry.input.note,
        "why": entry.input.why,
        "doubt": entry.input.doubt,
        "misfit": {"sentence": entry.input.misfit.sentence, "clear": entry.input.misfit.is_clear},
        "warning": run.warning,
        "elapsed": max(0.0, now - run.started) if run.started is not None else 0.0,
        "first": entry.first_frame_seconds,
        "rate": entry.frames_per_second,
        "encode_seconds": run.encode_seconds,
        "decode_seconds": run.decode_seconds,
        "peak": list(run.peak_bytes),
        "activity": [astuple(activity) for activity in run.activity[num_known:]],
        "video_file": _exists(run.video_path),
        "latent_file": _exists(run.latent_path),
        "psnr": json_number(entry.psnr),
        "comparison": entry.comparison,
        "settled": entry.settled,
    }


def row_json(entry: HistoryEntry) -> dict[str, Any]:
    """An ended run as a row of the page's table."""
    run = entry.run
    return {
        "id": run.id,
        "number": entry.number,
        "state": run.status,
        "vae": run.job.vae,
        "parallel": run.job.parallel,
        "ranks": run.num_ranks,
        "chunk": run.job.chunk,
        "frames": len(run.frames),
        "seconds": entry.seconds,
        "first": entry.first_frame_seconds,
        "rate": entry.frames_per_second,
        "encode": run.encode_seconds,
        "peak": list(run.peak_bytes),
    }


def listed_json(entry: HistoryEntry) -> dict[str, Any]:
    """A run, ended or not, as one of the visitor's list of runs."""
    run = entry.run
    return row_json(entry) | {
        "name": run.name,
        "kind": run.job.kind,
        "input": entry.input.digest,
        "scaling": entry.input.scaling,
        "height": run.size[0],
        "width": run.size[1],
        "num_frames": run.num_frames,
        "fps": run.fps,
        "created": run.created_at,
        "psnr": json_number(entry.psnr),
        "source": run.source is not None and not run.source.closed,
        "frames_available": len(run.frames) > 0 and not run.frames.closed,
        "thumbnail": f"runs/{run.id}/picture.jpg" if entry.picture is not None else None,
        "problem": entry.problem,
        "message": run.message,
        "refused": run.refused,
    }


def comparison_json(before: HistoryEntry, after: HistoryEntry) -> dict[str, Any]:
    """Compare two finished runs of one input: how many times as fast the second was, and where their frames differ.

    Frames of two sizes, as different VAEs make them, are not compared: "refusal" says so in a sentence. Raises
    ValueError if the frames of a run were deleted, or there are none.
    """
    who = {
        "before": before.number,
        "after": after.number,
        "parallel": [before.run.job.parallel, after.run.job.parallel],
        "cold": [before.is_cold, after.is_cold],
        "vae": [before.run.job.vae, after.run.job.vae],
    }
    if before.run.size != after.run.size:
        (h, w), (other_h, other_w) = before.run.size, after.run.size
        numbers = f"run {before.number} ({w}x{h}) and run {after.number} ({other_w}x{other_h})"
        return who | {"refusal": f"The frames of {numbers} are not compared: they are of two sizes."}
    found = difference(before.run.frames, after.run.frames)
    return who | {
        "speedup": before.seconds / after.seconds if before.seconds and after.seconds else None,
        "max_abs": found.max_abs,
        "frame": found.frame,
        "row": found.row,
        "column": found.column,
        "num_different": found.num_different,
        "num_pixels": found.num_pixels,
    }


def json_number(value: float | None) -> float | str | None:
    """Return the number, or "inf" for infinity, which JSON lacks."""
    return "inf" if value is not None and math.isinf(value) else value


def _exists(path: Path | None) -> bool:
    return path is not None and path.is_file()
