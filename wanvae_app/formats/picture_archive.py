"""A zip of numbered pictures, made of raw frames from the input of a process of its own.

    python -m wanvae_app.formats.picture_archive .tiff HEIGHT WIDTH CHANNELS VALUE_BYTES PATH

The process imports neither PyTorch nor Gradio. Its limits are set by who starts it.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

PNG_COMPRESSION = 3  # of 9: higher levels take twice the time for a few percent
TIFF_COMPRESSION = 4
DPI = 72


def main() -> None:
    suffix, height, width, num_channels, value_bytes, path = sys.argv[1:]
    shape = int(height), int(width), int(num_channels)
    try:
        write_archive(sys.stdin.buffer, suffix, shape, int(value_bytes), Path(path))
    except OSError as error:
        sys.exit(error.strerror or str(error))


def write_archive(
    source: BinaryIO, suffix: str, shape: tuple[int, int, int], value_bytes: int, path: Path
) -> None:
    """Write each frame [H, W, C] of `source` as a picture of the archive `path`: frame_00001 and so on.

    Pictures are compressed already, so the archive stores them. Raises OSError if the file cannot be written, or if
    the last frame is cut off.
    """
    encode = ENCODERS[suffix]
    dtype = np.dtype(np.uint8 if value_bytes == 1 else "<u2")
    num_bytes = int(np.prod(shape)) * value_bytes
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        number = 0
        while data := source.read(num_bytes):
            if len(data) < num_bytes:
                raise OSError(f"frame {number + 1} is cut off")
            number += 1
            archive.writestr(f"frame_{number:05}{suffix}", encode(np.frombuffer(data, dtype).reshape(shape)))


def encode_png(frame: np.ndarray) -> bytes:
    """Encode uint8 [H, W, C] as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", compress_level=PNG_COMPRESSION)
    return file.getvalue()


def encode_tiff(frame: np.ndarray) -> bytes:
    """Encode uint16 [H, W, C] as TIFF, deflated, with a horizontal predictor."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file,
        frame,
        photometric="rgb",
        extrasamples=["unassalpha"] if frame.shape[2] == 4 else None,
        compression="zlib",
        compressionargs={"level": TIFF_COMPRESSION},
        predictor=True,
        metadata=None,
        resolution=(DPI, DPI),
    )
    return file.getvalue()


def encode_exr(frame: np.ndarray) -> bytes:
    """Encode uint16 [H, W, C] as OpenEXR of 32-bit floats in linear light, deflated; colours are multiplied by alpha.

    The curve is that of sRGB, as pictures from the Wan models are shown: IEC 61966-2-1. Halves would not tell all
    65,536 levels apart.
    """
    import OpenEXR

    values = frame / 65535
    colours = to_linear(values[..., :3])
    channels = {"RGB": colours.astype(np.float32)}
    if frame.shape[2] == 4:
        alpha = values[..., 3:]
        channels = {"RGBA": np.concatenate([colours * alpha, alpha], -1).astype(np.float32)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:  # OpenEXR writes to paths only
        with OpenEXR.File(header, channels) as picture:
            picture.write(file.name)
        return Path(file.name).read_bytes()


def to_linear(values: np.ndarray) -> np.ndarray:
    """Convert sRGB values in [0, 1] to linear light in [0, 1]: IEC 61966-2-1."""
    linear: np.ndarray = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    ".png": encode_png,
    ".tiff": encode_tiff,
    ".exr": encode_exr,
}

if __name__ == "__main__":
    main()
