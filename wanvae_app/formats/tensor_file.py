"""Tensor files of every kind (safetensors, PyTorch, NumPy): headers, which are not trusted, become LazyTensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from wanvae_app.formats.lazy_tensor import LazyTensor
from wanvae_app.formats.numpy_file import is_npz, read_npy, read_npz
from wanvae_app.formats.torch_file import read_archive, read_legacy
from wanvae_app.formats.untrusted_text import Refusal, first_line

# Bytes of a safetensors header. A whole checkpoint's has about 30 KB, but ComfyUI puts the workflow into it, with the
# pictures that the workflow shows.
MAX_HEADER = 2**24
MAX_TENSORS = 20_000  # of a safetensors file; a whole pipeline's has some thousand
SAFETENSORS_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
SUFFIXES = ".safetensors, .latent, .pt, .pth, .npy or .npz"
# First bytes of files that are not read, and the advice that the refusal gives.
OTHER_FORMATS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first.",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first.",
    b"GGUF": f"is a GGUF file, which is not read; give one of {SUFFIXES}.",
    b"\x89HDF": f"is an HDF5 file, which is not read; give one of {SUFFIXES}.",
    b"version https://": "is a pointer of git-lfs, not the file itself; fetch that with git lfs pull.",
}


def lazy_tensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors, PyTorch or NumPy file, by name. The format is told by the first bytes.

    Nothing in the file is executed, and no more memory is taken than the file is large.

    Raises:
        ValueError: the file is damaged or holds other things than tensors; the message is one sentence.
        TypeError: the file is of another format.
        OSError: the file cannot be opened.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
    if size == 0:
        raise ValueError(f"{path.name} is empty.")
    if head[8:9] == b"{":
        reader = _safetensors
    elif head.startswith(b"\x93NUMPY"):
        reader = read_npy
    elif head.startswith(b"PK"):
        reader = _archive
    elif head.startswith(b"\x80"):  # a pickle
        reader = read_legacy
    else:
        for magic, advice in OTHER_FORMATS.items():
            if head.startswith(magic):
                raise ValueError(f"{path.name} {advice}")
        raise TypeError(f"{path.name} is no file of tensors")
    try:
        return reader(path, size)
    except Refusal as refusal:
        raise ValueError(f"{path.name} {refusal}") from refusal
    except MemoryError as error:
        raise ValueError(
            f"{path.name} needs more memory than a file of its size should; save it again, as .safetensors."
        ) from error
    except Exception as error:  # a parser may raise anything on damaged input
        raise ValueError(f"{path.name} is damaged or cut off: {first_line(error)}.") from error


def _archive(path: Path, size: int) -> dict[str, LazyTensor]:
    """The tensors of a zip archive of `size` bytes, which torch.save or numpy.savez wrote."""
    return read_npz(path, size) if is_npz(path) else read_archive(path, size)


def _safetensors(path: Path, size: int) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file of `size` bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if 8 + length > size:
        raise Refusal(
            f"is damaged or cut off: it has {size} bytes, and its header alone should have {length}."
        )
    if length > MAX_HEADER:
        raise Refusal(f"has a header of {length} bytes; at most {MAX_HEADER} are read.")
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        if len(names) > MAX_TENSORS:
            raise Refusal(f"holds {len(names)} tensors; at most {MAX_TENSORS} are listed.")
        slices = {name: file.get_slice(name) for name in names}
        return {
            name: LazyTensor(
                tuple(part.get_shape()),
                part.get_dtype(),
                part.get_dtype() in SAFETENSORS_FLOATS,
                partial(_read_safetensors, path, name),
            )
            for name, part in slices.items()
        }


def _read_safetensors(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor.clone()  # the original is a view of the mapped file
