"""watch: the frames of a stream, shown in a notebook while they are decoded."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wanvae_app.alpha import over_checkerboard
from wanvae_app.notebook.cell_output import CellOutput, image_tag

MAX_THUMBNAILS = 10  # in the strip, spread evenly over the clip
THUMBNAIL_WIDTH, NEWEST_WIDTH = 88, 480  # pixels
JPEG_QUALITY = 80
UPDATE_INTERVAL = 0.1  # seconds between two updates at least, the last one excepted


def watch(stream: Iterable[Tensor | np.ndarray], num_frames: int) -> Tensor:
    """Show the frames of a stream while they come; return all of them, uint8 [T H W 3], or [T H W 4] with alpha.

    `stream` yields uint8 [N H W 3], as `LoadedVae.decode_stream` does. `num_frames` is how many will come. The cell
    shows a progress bar, the newest frame, and a strip that grows. Interrupt the cell to stop the stream.

    Raises ValueError for what is no frame, and if the stream has no frames.
    """
    strip = FrameStrip(num_frames)
    parts: list[Tensor] = []
    is_whole = False
    try:
        for part in stream:
            frames = torch.as_tensor(part)
            if (
                frames.dtype != torch.uint8
                or frames.dim() != 4
                or frames.shape[3] not in (3, 4)
                or not frames.numel()
            ):
                raise ValueError(
                    f"A stream of {frames.dtype} and shape {list(frames.shape)} cannot be shown: it must yield uint8 "
                    '[N, H, W, 3], as decode_stream does with output="uint8".'
                )
            parts.append(frames)
            strip.add(over_checkerboard(frames.cpu().numpy()))
        is_whole = True
    finally:
        strip.end(is_whole)
        if close := getattr(stream, "close", None):
            close()  # frees the ranks, if the loop was left early
    if not parts:
        raise ValueError("The stream has no frames.")
    return torch.cat(parts)


class FrameStrip:
    """A progress bar, the newest frame, and a strip of thumbnails, in one output of a cell.

    `num_frames` is the length of the clip, 1 or more.
    """

    def __init__(self, num_frames: int) -> None:
        if num_frames < 1:
            raise ValueError(f"num_frames={num_frames!r} is impossible; give 1 or more.")
        self.num_frames = num_frames
        count = min(num_frames, MAX_THUMBNAILS)
        last = max(count - 1, 1)
        self.thumbnails = {round(place * (num_frames - 1) / last): "" for place in range(count)}
        self.num_shown = 0
        self._newest: np.ndarray | None = None
        self._start = time.monotonic()
        self._first: float | None = None  # seconds until the first frame
        self._updated = self._start
        self._is_whole: bool | None = None  # None while it runs
        self._output = CellOutput(self._html(), self._sentence())

    def add(self, frames: np.ndarray) -> None:
        """Show more frames, uint8 [N H W 3]."""
        now = time.monotonic()
        if self._first is None:
            self._first = now - self._start
        for index in self.thumbnails:
            if self.num_shown <= index < self.num_shown + len(frames):
                uri = _data_uri(frames[index - self.num_shown], 2 * THUMBNAIL_WIDTH)
                self.thumbnails[index] = image_tag(uri, THUMBNAIL_WIDTH, f"frame {index}")
        self.num_shown += len(frames)
        self._newest = frames[-1]
        if now - self._updated >= UPDATE_INTERVAL or self.num_shown == len(frames):
            self._show()

    def end(self, is_whole: bool) -> None:
        """Show that no frames follow: all are there, or the stream was stopped."""
        self._is_whole = is_whole
        self._show()

    def _show(self) -> None:
        self._updated = time.monotonic()
        self._output.update(self._html(), self._sentence())

    def _sentence(self) -> str:
        """How far it is, and how fast."""
        words = [f"{self.num_shown} of {self.num_frames} frames"]
        if self._first is not None:
            seconds = self._updated - self._start
            words.append(f"first one after {self._first:.2f} s")
            words.append(f"all after {seconds:.2f} s" if self._is_whole else "")
            words.append(f"{self.num_shown / max(seconds, 1e-6):.3g} frames/s")
        if self._is_whole is False:
            words.append("stopped")
        return ", ".join(filter(None, words))

    def _html(self) -> str:
        places = []
        height = 0
        if self._newest is not None:
            height = round(THUMBNAIL_WIDTH * self._newest.shape[0] / self._newest.shape[1])
        for image in self.thumbnails.values():
            empty = f'<div style="width:{THUMBNAIL_WIDTH}px;height:{height}px;background:#8883"></div>'
            places.append(image or empty)
        newest = ""
        if self._newest is not None:
            width = min(NEWEST_WIDTH, self._newest.shape[1])
            newest = image_tag(_data_uri(self._newest, width), width, f"frame {self.num_shown - 1}")
        return (
            '<div style="font:13px system-ui,sans-serif;max-width:960px">'
            f'<progress max="{self.num_frames}" value="{self.num_shown}" style="width:100%"></progress>'
            f'<div style="margin:2px 0 6px">{self._sentence()}</div>{newest}'
            f'<div style="display:flex;flex-wrap:wrap;gap:3px;margin-top:6px">{"".join(places)}</div></div>'
        )


def _data_uri(frame: np.ndarray, max_width: int) -> str:
    """Return a frame, uint8 [H W 3], as the address of a JPEG, scaled down to `max_width` pixels."""
    image = Image.fromarray(frame)
    image.thumbnail((max_width, image.height))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
