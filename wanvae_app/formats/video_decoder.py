"""VideoDecoder: a video's frames, one by one, from an ffmpeg with limits."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator
from pathlib import Path

import numpy as np

from wanvae_app.device import num_cores
from wanvae_app.errors import plural
from wanvae_app.formats import ffmpeg
from wanvae_app.formats.ffmpeg import StopCheck
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.untrusted_text import MAX_ERROR_LENGTH, printable
from wanvae_app.formats.video_container import STILL_DEMUXERS, find_container
from wanvae_app.formats.video_filters import filters
from wanvae_app.formats.video_header import MAX_INPUT_PIXELS, TILES
from wanvae_app.formats.video_input import reading
from wanvae_app.formats.video_plan import VideoPlan

MAX_THREADS = 8  # of ffmpeg's decoder; each keeps pictures of its own
CPU_SECONDS = 2 * int(ffmpeg.FILE_TIMEOUT)
ADDRESS_SPACE = 2**31  # bytes of ffmpeg's code and its threads' stacks and heaps, besides pictures
SKIPPED_PER_SECOND = 50  # frames that are decoded and not taken, at least
# ffmpeg's errors where frames are missing, and where it guessed parts of them.
MISSING_FRAMES = re.compile(
    r"partial file|ended prematurely|Decoding error|Error submitting packet|LZW decode"
)
FAILED_FILTER = "Error while filtering"
CONCEALED_DAMAGE = re.compile(r"error while decoding|corrupt decoded frame|concealing")


class VideoDecoder:
    """Decodes a file's frames, at most one more than its plan states. `concealed_damage` is valid after the last."""

    def __init__(self, path: Path, plan: VideoPlan, stopped: StopCheck | None) -> None:
        self.path = path
        self.plan = plan
        self.stopped = stopped
        self.concealed_damage = False

    def frames(self) -> Generator[np.ndarray]:
        """The frames, uint8 [H, W, 3], each once, however unevenly they are timed.

        Raises ValueError, with one sentence, if frames are missing or cannot be decoded; ReadingStopped.
        """
        width, height = self.plan.cropped
        num_bytes = height * width * 3
        silence = ffmpeg.SILENCE_TIMEOUT + self._num_skipped() / SKIPPED_PER_SECOND
        with self._running() as reader:
            num_frames = 0
            while len(data := reader.read(num_bytes, self.stopped, silence)) == num_bytes:
                num_frames += 1
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            status, errors = reader.wait(), reader.error_output()
        if reader.is_hung:
            raise ValueError(
                f"{self.path.name} cannot be decoded: ffmpeg takes too long after {plural(num_frames, 'frame')}."
            )
        name = self.path.name
        if data or MISSING_FRAMES.search(errors):  # ffmpeg would go on without them
            raise ValueError(
                f"{name} is damaged or cut off after {plural(num_frames, 'frame')}; save it again."
            )
        if status != 0 and ("no packets" not in errors or FAILED_FILTER in errors):
            raise ValueError(f"{name} cannot be decoded: {printable(reader.last_error(), MAX_ERROR_LENGTH)}.")
        self.concealed_damage = CONCEALED_DAMAGE.search(errors) is not None

    def _running(self) -> contextlib.AbstractContextManager[ffmpeg.Ffmpeg]:
        """ffmpeg, which writes the frames to its output."""
        plan, source = self.plan, self.plan.header.source
        num_threads = (
            1 if source.stream == TILES else min(num_cores(), MAX_THREADS)
        )  # each tile has a decoder
        threads = ("-threads", str(num_threads), "-filter_threads", "4")
        # A picture may turn out larger than the header says.
        options = [*threads, "-max_pixels", str(MAX_INPUT_PIXELS), *source.input_options()]
        output = [*source.filtered(filters(plan)), "-frames:v", str(self._max_frames())]
        output += ["-fps_mode", "passthrough", "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"]
        output += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
        limits = Limits(CPU_SECONDS, ADDRESS_SPACE + plan.num_memory_bytes_bound)
        pictures = source.pictures
        if pictures is not None:
            pictures = pictures._replace(numbers=plan.frames.within(plan.header.num_frames or 0))
        return reading(self.path, options, output, limits=limits, pictures=pictures)

    def _max_frames(self) -> int:
        """How many frames ffmpeg writes at most: one more than planned tells that the file holds more than it lists."""
        plan = self.plan
        is_still = find_container(self.path) in STILL_DEMUXERS
        return plan.num_frames_bound + (plan.frames.stop is None and not is_still)

    def _num_skipped(self) -> int:
        """How many frames are decoded without one that is taken, at most."""
        return max(self.plan.frames.start, self.plan.frames.step)
