"""What a program gets of a run that is done: a tensor or a picture, in pieces."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from wanvae_app.frame_log import FrameLog
from wanvae_app.jobs.deep_frames import deep_frame_batches
from wanvae_app.page.remote_request import DecodeRequest, ImageFormat, OutputType

FILE_BYTES = 2**20  # of one piece
TENSOR_TYPE = "tensor/binary"
PICTURE_QUALITY = 95  # of one JPEG


class Answer(NamedTuple):
    """The body of an answer in pieces, its headers and its type."""

    pieces: Iterator[bytes]
    headers: dict[str, str]
    media_type: str


def decoded_answer(frames: FrameLog, wanted: DecodeRequest, is_picture: bool) -> Answer:
    """Return all frames of a finished run as a tensor, or its only frame as a picture.

    `is_picture` says that the latent had no time, so that the tensor has none.
    """
    first = frames.read(0, 1)
    count, (_, height, width, channels) = len(frames), first.shape
    width //= wanted.bit_depth // 8  # of frames of 16 bits it counts bytes
    if wanted.wants_picture:
        return _picture(first[0], wanted.image_format)
    if wanted.output_type == OutputType.PIL:
        return _tensor([count, channels, height, width], "float16", _unit_frames(frames))
    if wanted.partial_postprocess:
        return _tensor(
            [count, height, width, channels], "uint8", (frames.read(i, i + 1).tobytes() for i in range(count))
        )
    shape = [1, channels, height, width] if is_picture else [1, channels, count, height, width]
    return _tensor(shape, "float16", _signed_channels(frames, channels))


def encoded_answer(z: Tensor) -> Answer:
    """Return a latent as a tensor of its shape, in float32."""
    data = z.float().contiguous().numpy().tobytes()
    pieces = (data[start : start + FILE_BYTES] for start in range(0, len(data), FILE_BYTES))
    return _tensor(list(z.shape), "float32", pieces)


def _tensor(shape: list[int], dtype: str, pieces: Iterator[bytes]) -> Answer:
    length = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    headers = {"shape": json.dumps(shape), "dtype": dtype, "Content-Length": str(length)}
    return Answer(pieces, headers, TENSOR_TYPE)


def _picture(pixels: np.ndarray, image_format: ImageFormat) -> Answer:
    data = io.BytesIO()
    if image_format == ImageFormat.PNG:
        Image.fromarray(pixels).save(data, "PNG")
    else:
        Image.fromarray(pixels).convert("RGB").save(data, "JPEG", quality=PICTURE_QUALITY, subsampling=0)
    headers = {"Content-Length": str(len(data.getvalue()))}
    return Answer(
        iter([data.getvalue()]), headers, f"image/{'png' if image_format == ImageFormat.PNG else 'jpeg'}"
    )


def _unit_frames(frames: FrameLog) -> Iterator[bytes]:
    """Yield frames [C H W] in [0, 1]: float16 holds 8 bits exactly, bfloat16 does not."""
    for index in range(len(frames)):
        pixels = frames.read(index, index + 1)[0].transpose(2, 0, 1)
        yield (pixels.astype(np.float32) / 255).astype(np.float16).tobytes()


def _signed_channels(frames: FrameLog, num_channels: int) -> Iterator[bytes]:
    """Yield the channels of frames of 16 bits in [-1, 1], each [T, H, W], frame by frame."""
    for channel in range(num_channels):
        for batch in deep_frame_batches(frames):
            yield (batch[..., channel].astype(np.float32) / 32767.5 - 1).astype(np.float16).tobytes()
