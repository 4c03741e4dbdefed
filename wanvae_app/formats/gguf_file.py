"""The tensors of a GGUF file, as llama.cpp's tools write it, through the library gguf."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.untrusted_text import first_line

MAGIC = b"GGUF"
MAX_TENSORS = 20_000
# GGUF's tools take four dimensions at most. Converters flatten a three-dimensional convolution's weight, and state its
# shape under this key.
SHAPE_KEY = "comfy.gguf.orig_shape."


def is_gguf(path: Path) -> bool:
    """Whether a file is in this format, by its first bytes."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def gguf_tensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a GGUF file, by name. Those that are quantised are read as float32.

    Raises ValueError, with one sentence, for a damaged file.
    """
    from gguf import GGUFReader  # takes a second to import

    try:
        reader = GGUFReader(path)
        if len(reader.tensors) > MAX_TENSORS:
            raise ValueError(f"it holds {len(reader.tensors)} tensors, and at most {MAX_TENSORS} are listed")
        return {tensor.name: _describe(reader, tensor) for tensor in reader.tensors}
    except Exception as error:  # the library may raise anything on damaged input
        raise ValueError(f"{path.name} is damaged or cut off: {first_line(error)}.") from error


def _describe(reader: Any, tensor: Any) -> LazyTensor:
    field = reader.get_field(f"{SHAPE_KEY}{tensor.name}")
    sizes = reversed(tensor.shape) if field is None else (field.parts[index][0] for index in field.data)
    shape = tuple(int(size) for size in sizes)
    if math.prod(shape) != int(tensor.n_elements):
        raise ValueError(f"{tensor.name} has {tensor.n_elements} numbers for a shape of {math.prod(shape)}")
    kind = tensor.tensor_type.name
    return LazyTensor(
        shape, kind, not kind.startswith("I") or kind.startswith("IQ"), partial(_read, tensor, shape)
    )


def _read(tensor: Any, shape: tuple[int, ...]) -> Tensor:
    from gguf.quants import dequantize

    values = np.array(dequantize(tensor.data, tensor.tensor_type))  # a copy, which may be written to
    return torch.from_numpy(values).reshape(shape)
