"""What a program asks of the remote VAE: the query of a request, checked before its body is read.

The parameters are those of diffusers' `utils/remote_utils.py`; docs/remote.md describes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from starlette.datastructures import QueryParams

from wanvae_app.config import WanConfig
from wanvae_app.page.remote_scaling import MAX_TEXT, Scaling, read_flag

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "uint8": torch.uint8,
}
MAX_BODY = 2**32  # bytes of a request's body
MAX_DIMS = 5
MAX_DIGITS = 9  # of one number of a shape
MIN_FPS, MAX_FPS = 0.1, 1000.0
STREAM_TYPE = "application/x-wan-frames"
PICTURE_TYPES = ("image/jpeg", "image/png")


class OutputType(StrEnum):
    """The form of decoded frames: a tensor, pictures, or a video file."""

    PT = "pt"
    PIL = "pil"
    MP4 = "mp4"


class ImageFormat(StrEnum):
    """The form of one picture, or of each frame of a stream; RAW is RGB bytes, for streams alone."""

    JPG = "jpg"
    PNG = "png"
    RAW = "raw"


@dataclass(frozen=True)
class TensorHeader:
    """Shape and type of the tensor whose bytes are the body."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def parse(cls, query: QueryParams) -> TensorHeader:
        """Read `shape`, which is repeated, and `dtype`. Raises ValueError for what cannot be a body."""
        sizes = query.getlist("shape")
        if not sizes or "dtype" not in query:
            raise ValueError("A tensor needs its shape and dtype in the query, as diffusers sends them.")
        if len(sizes) > MAX_DIMS or not all(_is_size(size) for size in sizes):
            shown = ", ".join(sizes)[:MAX_TEXT]
            raise ValueError(
                f"A shape of {shown!r} is impossible; give 1 to {MAX_DIMS} whole numbers, each 1 or more."
            )
        name = query["dtype"]
        if name not in DTYPES:
            raise ValueError(f"The dtype {name[:MAX_TEXT]!r} is not known; send {', '.join(DTYPES)}.")
        header = cls(tuple(map(int, sizes)), DTYPES[name])
        if header.num_bytes > MAX_BODY:
            raise ValueError(
                f"A tensor of shape {list(header.shape)} has {header.num_bytes} bytes; at most {MAX_BODY} are taken."
            )
        return header


@dataclass(frozen=True)
class DecodeRequest:
    """One latent that a program sends, and the form in which it wants the frames."""

    tensor: TensorHeader
    scaling: Scaling
    output_type: OutputType
    image_format: ImageFormat
    partial_postprocess: bool
    size: tuple[int, int] | None  # height and width in pixels, for packed latents
    fps: float | None
    is_stream: bool  # frames as they are decoded
    wants_picture: bool  # one picture file, not a tensor

    @property
    def bit_depth(self) -> int:
        """Bits of a value that the ranks make: 16 where the answer holds more than 8."""
        is_fine = self.output_type == OutputType.PT and not self.partial_postprocess and not self.is_stream
        return 16 if is_fine else 8

    @classmethod
    def parse(cls, query: QueryParams, headers: Mapping[str, str], config: WanConfig) -> DecodeRequest:
        """Read a request. Raises ValueError, in one sentence, for what is not known or not possible."""
        accept = headers.get("accept", "").lower()
        is_stream = STREAM_TYPE in accept
        output_type = OutputType(_choice(query, "output_type", OutputType.PIL, tuple(OutputType)))
        formats = tuple(ImageFormat) if is_stream else (ImageFormat.JPG, ImageFormat.PNG)
        image_format = ImageFormat(_choice(query, "image_format", ImageFormat.JPG, formats))
        # diffusers asks for a tensor of type "pil" by its Accept header alone.
        wants_picture = output_type == OutputType.PIL and any(kind in accept for kind in PICTURE_TYPES)
        return cls(
            TensorHeader.parse(query),
            Scaling.parse(query, config),
            output_type,
            image_format,
            read_flag(query, "partial_postprocess"),
            _picture_size(query),
            _rate(query),
            is_stream,
            wants_picture and not is_stream,
        )


@dataclass(frozen=True)
class EncodeRequest:
    """One video or picture that a program sends, and the scaling in which it wants the latent."""

    tensor: TensorHeader | None  # None: the body is a PNG
    scaling: Scaling

    @classmethod
    def parse(cls, query: QueryParams, config: WanConfig) -> EncodeRequest:
        """Read a request. Raises ValueError, in one sentence, for what is not known or not possible."""
        tensor = TensorHeader.parse(query) if "shape" in query or "dtype" in query else None
        return cls(tensor, Scaling.parse(query, config))


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) > 0


def _choice(query: QueryParams, name: str, default: str, choices: tuple[str, ...]) -> str:
    text = query.get(name, default)
    if text not in choices:
        raise ValueError(f"{name} is {text[:MAX_TEXT]!r}; give {', '.join(choices)}.")
    return text


def _picture_size(query: QueryParams) -> tuple[int, int] | None:
    """Read `height` and `width`. Raises ValueError unless both are there, or neither."""
    texts = [query.get(name) for name in ("height", "width")]
    if texts == [None, None]:
        return None
    if not all(text is not None and _is_size(text) for text in texts):
        raise ValueError("height and width are those of the picture; give both, as whole numbers of pixels.")
    return int(texts[0] or 0), int(texts[1] or 0)


def _rate(query: QueryParams) -> float | None:
    if "fps" not in query:
        return None
    try:
        fps = float(query["fps"])
    except ValueError:
        fps = math.nan
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(
            f"fps is {query['fps'][:MAX_TEXT]!r}; give {MIN_FPS:g} to {MAX_FPS:g} frames per second."
        )
    return fps
