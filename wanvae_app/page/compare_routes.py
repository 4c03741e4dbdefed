"""Routes for looking closely: exact frames, and two clips compared.

live/ID/frame/N.png?source=1&alpha=1
                                 frame N, lossless; with source=1 that of the run's source; with alpha=1 with its alpha,
                                 where it is shown over a checkerboard
compare/A/B/frame/N.png?gain=1&channel=worst
                                 the difference of two frames in colours; gain 1 to 64, channel worst or luma
compare/A/B/frame/N              JSON, see `difference_json`
compare/A/B/curve?start=K        JSON, see `curve_json`: the differences of all frames from K on, as far as they are
                                 known; asking computes some more

A and B are clips: the id of a run, or that of a run and ".source". Frames count from 0. Only runs of the asking
visitor's are found.
"""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from wanvae_app.page.clips import SOURCE_SUFFIX, Clip, find_clip, whole_number
from wanvae_app.page.curves import STEP_SECONDS, Curve, Curves
from wanvae_app.page.frame_compare import (
    CHANNELS,
    COLOURS,
    MAX_GAIN,
    FrameDifference,
    compare_frames,
    difference_picture,
)
from wanvae_app.page.history import History
from wanvae_app.page.run_json import json_number

NUM_THREADS = 2  # that compute at once, whatever is asked
NICENESS = 10  # of these threads: decoding on a CPU comes first
PNG_LEVEL = 1  # 35 ms and 0.27 MB for a frame of 480x832; level 6 takes three times as long for a fifth less
HEADERS = {"Cache-Control": "no-store"}

Value = TypeVar("Value")


def make_compare_routes(history: History) -> list[BaseRoute]:
    """Make the routes."""
    handlers = CompareHandlers(history)
    return [
        Route("/live/{id}/frame/{n}.png", handlers.exact_frame),
        Route("/compare/{a}/{b}/frame/{n}.png", handlers.picture),
        Route("/compare/{a}/{b}/frame/{n}", handlers.numbers),
        Route("/compare/{a}/{b}/curve", handlers.curve),
    ]


class CompareHandlers:
    """One method per route. All computing is done by NUM_THREADS threads."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.curves = Curves()
        self._pool = ThreadPoolExecutor(NUM_THREADS, "compare", initializer=lower_priority)

    async def exact_frame(self, request: Request) -> Response:
        wants_source = request.query_params.get("source", "0") not in ("", "0")
        clip = self._clip(request, request.path_params["id"] + SOURCE_SUFFIX * wants_source)
        frame = frame_number(request)
        with_alpha = request.query_params.get("alpha", "0") not in ("", "0")
        return await self._png(lambda: clip.read(frame, with_alpha))

    async def picture(self, request: Request) -> Response:
        a, b = self._pair(request)
        frame = frame_number(request)
        gain = whole_number(request.query_params.get("gain", "1"), "The gain", 1, MAX_GAIN)
        channel = request.query_params.get("channel", CHANNELS[0])
        if channel not in CHANNELS:
            raise HTTPException(400, f"The channel must be one of {', '.join(CHANNELS)}.")
        self.curves.get(a, b)  # refuses clips that differ in size
        return await self._png(lambda: difference_picture(a.read(frame), b.read(frame), gain, channel))

    async def numbers(self, request: Request) -> Response:
        a, b = self._pair(request)
        frame, curve = frame_number(request), self.curves.get(a, b)
        found = await self._compute(lambda: compare_frames(a.read(frame), b.read(frame), curve.mask))
        return JSONResponse(difference_json(frame, found, curve), headers=HEADERS)

    async def curve(self, request: Request) -> Response:
        a, b = self._pair(request)
        start = whole_number(request.query_params.get("start", "0"), "The start")
        curve = self.curves.get(a, b)
        await self._compute(lambda: curve.extend(STEP_SECONDS))
        return JSONResponse(curve_json(curve, start), headers=HEADERS)

    def _clip(self, request: Request, name: str) -> Clip:
        return find_clip(self.history, request, name)

    def _pair(self, request: Request) -> tuple[Clip, Clip]:
        a, b = (self._clip(request, request.path_params[side]) for side in "ab")
        return a, b

    async def _png(self, make: Callable[[], np.ndarray]) -> Response:
        png = await self._compute(lambda: encode_png(make()))
        return Response(png, media_type="image/png", headers=HEADERS)

    async def _compute(self, function: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


def difference_json(frame: int, found: FrameDifference, curve: Curve) -> dict[str, Any]:
    """How two frames differ, and the colours in which a picture shows it."""
    height, width = curve.a.frames.height, curve.a.frames.width
    return {
        "frame": frame,
        "psnr": json_number(found.psnr),
        "max_abs": found.max_abs,
        "on_borders": found.on_borders,
        "elsewhere": found.elsewhere,
        "row": found.row,
        "column": found.column,
        "num_different": found.num_different,
        "num_pixels": height * width,
        "colours": COLOURS,
    }


def curve_json(curve: Curve, start: int) -> dict[str, Any]:
    """The differences from frame `start` on that are known, and whether there will be more."""
    is_complete = curve.is_complete
    known = curve.differences[start:]
    return {
        "start": start,
        "psnr": [json_number(found.psnr) for found in known],
        "on_borders": [found.on_borders for found in known],
        "elsewhere": [found.elsewhere for found in known],
        "num_frames": curve.num_frames,
        "complete": is_complete,
    }


def encode_png(frame: np.ndarray) -> bytes:
    """Encode a frame, uint8 [H, W, C], as PNG."""
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "PNG", compress_level=PNG_LEVEL)
    return data.getvalue()


def frame_number(request: Request) -> int:
    """Return the number of the frame that the path names. Raises HTTPException 400 if it is none."""
    return whole_number(request.path_params["n"], "The frame")


def lower_priority() -> None:
    """Let this thread run only where others leave time. Linux alone has priorities of threads."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
