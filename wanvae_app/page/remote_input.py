"""Bodies of programs' requests as inputs of runs: a latent, a video, or one picture. All are UnreadInputs."""

from __future__ import annotations

import math
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wanvae_app.config import WanConfig
from wanvae_app.formats import ffmpeg
from wanvae_app.formats.latent_file import MAX_ABS
from wanvae_app.formats.limits import Limits
from wanvae_app.formats.video_plan import MAX_PIXELS
from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.unread_input import InputPlan, ReadInput
from wanvae_app.page.remote_body import Body
from wanvae_app.page.remote_layout import (
    encoded_shape,
    is_packed,
    latent_layout,
    unpacked,
    video_layout,
    video_shape,
)
from wanvae_app.page.remote_request import DecodeRequest, TensorHeader

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_BYTES = 24  # that hold the size
PICTURE_SECONDS = 30  # of computing for one picture
PICTURE_MEMORY = 2**31  # bytes of address space
TOLERANCE = 0.01  # by which floats may leave [-1, 1]


class SentLatent:
    """A latent to decode. `note` says, once it is read, what is odd about its scaling."""

    name = "This latent"

    def __init__(self, body: Body, request: DecodeRequest, config: WanConfig) -> None:
        self.body = body
        self.request = request
        self.config = config
        self.shape = latent_layout(request, config)
        self.note = ""

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        num_bytes = 4 * math.prod(self.shape)  # in float32
        num_values = math.prod((self.config.num_frames(self.shape.num_latents), *self.shape[2:], 3))
        more_bytes = (
            (self.request.bit_depth // 8 - 1) * num_values * self.config.output_factor**2
        )  # than of 8 bits
        return InputPlan(self.shape, more_bytes, num_bytes, reading_bytes=2 * num_bytes)

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        sent = _map_tensor(self.body, self.request.tensor)
        z = unpacked(sent, self.shape) if is_packed(self.request) else sent.reshape(1, *self.shape)
        z = z.to(torch.float32, copy=True)
        low, high = map(float, z.aminmax())
        if not max(-low, high) <= MAX_ABS:  # true for NaN, too
            raise ValueError(
                f"The latent holds values from {low:.3g} to {high:.3g}; those of a latent are finite and within 20 or "
                "so."
            )
        raw, self.note = self.request.scaling.to_raw(z, self.config)
        self.body.close()
        fps = self.request.fps or (24.0 if self.config.residual else 16.0)
        return ReadInput(raw, None, fps)


class SentVideo:
    """A video to encode: uint8 [T H W 3], or floats in [-1, 1] [1 3 T H W], [3 T H W] or [1 3 H W].

    `note` says, once it is read, whether the floats look as if 0 were black in them.
    """

    name = "This video"

    def __init__(self, body: Body, tensor: TensorHeader, config: WanConfig) -> None:
        self.body = body
        self.tensor = tensor
        self.num_frames, self.height, self.width = video_layout(tensor)
        self.shape = video_shape(tensor, config)
        self.note = ""

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        num_bytes = self.num_frames * self.height * self.width * 3
        return InputPlan(self.shape, num_bytes, 4 * math.prod(self.shape), reading_bytes=2**24)

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        log = FrameLog(self.height, self.width, folder)
        try:
            for frame in self._frames():
                if stopped():
                    raise InterruptedError("reading was stopped")
                log.append(frame[None])
        except BaseException:
            log.close()
            raise
        log.finish()
        self.body.close()
        return ReadInput(None, log, 16.0)

    def _frames(self) -> Iterator[np.ndarray]:
        """Yield uint8 frames [H W 3]. Raises ValueError for floats beyond [-1, 1]."""
        sent = _map_tensor(self.body, self.tensor)
        if self.tensor.dtype == torch.uint8:
            yield from sent.reshape(self.num_frames, self.height, self.width, 3).numpy()
            return
        channels = sent.reshape(3, self.num_frames, self.height, self.width)
        lowest = math.inf
        for index in range(self.num_frames):
            x = channels[:, index].float()
            low, high = map(float, x.aminmax())
            if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # true for NaN, too
                raise ValueError(
                    f"Frame {index} holds values from {low:.4g} to {high:.4g}; send floats in [-1, 1], or uint8."
                )
            lowest = min(lowest, low)
            pixels = x.add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
            yield pixels.permute(1, 2, 0).contiguous().numpy()
        if lowest >= 0:
            self.note = (
                "All values are 0 or more, where -1 is black: if 0 is black, multiply by 2 and subtract 1."
            )


class SentPicture:
    """A PNG to encode, as a clip of one frame. ffmpeg decodes it, in a process with limits."""

    name = "This picture"

    def __init__(self, body: Body, config: WanConfig) -> None:
        self.body = body
        self.note = ""
        body.file.seek(0)
        head = body.file.read(PNG_HEADER_BYTES)
        if not head.startswith(PNG_START) or len(head) < PNG_HEADER_BYTES:
            raise ValueError("The body is no PNG; send one, or a tensor's bytes with its shape and dtype.")
        self.width, self.height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        self.shape = encoded_shape(1, self.height, self.width, config)

    def plan(self, stopped: Callable[[], bool]) -> InputPlan:
        return InputPlan(
            self.shape, self.height * self.width * 3, 4 * math.prod(self.shape), reading_bytes=2**24
        )

    def read(
        self, folder: Path | None, on_progress: Callable[[str], None], stopped: Callable[[], bool]
    ) -> ReadInput:
        num_bytes = self.height * self.width * 3
        arguments = ["-loglevel", "error", "-protocol_whitelist", "file,pipe", "-threads", "1"]
        arguments += ["-max_pixels", str(MAX_PIXELS), "-f", "png_pipe", "-i", "pipe:0", "-frames:v", "1"]
        command = ffmpeg.command(*arguments, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1")
        limits = Limits(PICTURE_SECONDS, PICTURE_MEMORY)
        stdin = self.body.file.fileno()
        os.lseek(stdin, 0, os.SEEK_SET)  # `seek` may move within the file object's buffer alone
        with ffmpeg.running(command, stdin=stdin, stdout=subprocess.PIPE, limits=limits) as reader:
            data = reader.read(num_bytes + 1, stopped)
        if len(data) != num_bytes:
            raise ValueError("The PNG is damaged or cut off; save it again.")
        log = FrameLog(self.height, self.width, folder)
        log.append(np.frombuffer(data, np.uint8).reshape(1, self.height, self.width, 3))
        log.finish()
        self.body.close()
        return ReadInput(None, log, 16.0)


def _map_tensor(body: Body, header: TensorHeader) -> Tensor:
    """Return the body as a flat tensor, whose memory is the file's."""
    memory = mmap.mmap(body.file.fileno(), header.num_bytes, access=mmap.ACCESS_COPY)
    return torch.frombuffer(memory, dtype=header.dtype)
