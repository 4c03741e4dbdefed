"""Files without a latent of this VAE are refused in one sentence, before anything large is read."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.torch_files import AllocatesWhenUnpickled, PrintsWhenUnpickled, save_legacy

from wanvae_app.config import PRESETS, WanConfig
from wanvae_app.formats.latent_file import MAX_ABS
from wanvae_app.formats.latents import read_latent
from wanvae_app.formats.untrusted_text import first_line, printable

WAN = PRESETS["wan2.1"]
SHAPE = (1, 16, 3, 4, 5)


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    return struct.pack("<Q", len(header)) + header + data


def npy(header: str, version: bytes = b"\x01\x00") -> bytes:
    """A NumPy file with this header, and no data."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode()


def safetensors_of_shape(shape: Any, offsets: Any = (0, 4), dtype: str = "F32") -> bytes:
    """A safetensors file whose header states this shape, and that has 4 bytes of data."""
    header = {"latent": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
    return safetensors(json.dumps(header).encode(), bytes(4))


def saved(value: Any) -> Callable[[Path], None]:
    """A function that saves the value at a path."""
    return lambda path: torch.save(value, path)


def save_compressed(path: Path) -> None:
    """Save a latent, and compress the archive's entries, which torch.save does not."""
    torch.save(torch.zeros(SHAPE), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def write_half(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file, and cut off its second half."""
    write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@dataclass(frozen=True)
class Wrong:
    """A file that is refused by a VAE of this configuration."""

    content: bytes | Callable[[Path], Any]  # or a function that writes it
    refusal: str  # a pattern of the sentence
    config: WanConfig = WAN


Z = torch.ones(SHAPE)
WRONG = {
    "empty.pt": Wrong(b"", "is empty"),
    "text.safetensors": Wrong(b"hello, this is no tensor", "is not a latent .* or a video .* by its content"),
    "short.npy": Wrong(b"x", "by its content"),
    "picture.pt": Wrong(b"\x89PNG\r\n\x1a\n" + bytes(50), "by its content"),
    "packed.pt": Wrong(b"\x1f\x8b\x08" + bytes(50), "gzip; unpack"),
    "pointer.safetensors": Wrong(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    # What a pickle holds.
    "trap.pt": Wrong(
        saved({"latent": Z, "x": PrintsWhenUnpickled()}), r"Python objects \(\w+\.print\).*save plain tensors"
    ),
    "bomb.pt": Wrong(
        saved({"latent": Z, "x": AllocatesWhenUnpickled()}), r"Python objects \(\w+\.bytearray\)"
    ),
    "legacy bomb.pt": Wrong(lambda path: save_legacy([AllocatesWhenUnpickled()], path), "Python objects"),
    "module.pt": Wrong(saved(torch.nn.Linear(2, 2)), r"Python objects \(torch\.nn\.modules"),
    "array.pt": Wrong(saved({"latent": Z.numpy()}), r"Python objects \(numpy"),
    "pickle.pt": Wrong(lambda path: path.write_bytes(pickle.dumps(Z)), "Python objects"),
    "numbers.pkl": Wrong(
        lambda path: path.write_bytes(pickle.dumps([1, 2])), "not one that torch.save wrote"
    ),
    "script.pt": Wrong(
        lambda path: torch.jit.trace(lambda x: x + 1, torch.zeros(1)).save(str(path)),
        "is a TorchScript program; save",
    ),
    "sparse.pt": Wrong(saved(Z.to_sparse()), "Python objects"),
    "meta.pt": Wrong(saved(Z.to("meta")), "Python objects"),
    "no tensor.pt": Wrong(saved({"seed": 3}), "holds no tensor; a latent .* is needed"),
    "many.pt": Wrong(saved(list(range(20_000))), "more than 10000 things"),
    # Small files that would be large.
    "expanded.pt": Wrong(saved(torch.zeros(1).expand(1, 16, 100, 700, 700)), "tensor.contiguous()"),
    "deflated.pt": Wrong(save_compressed, "is a compressed archive"),
    "zip.pt": Wrong(
        lambda path: zipfile.ZipFile(path, "w").close(), "by its content|not one that torch.save"
    ),
    "compressed.npz": Wrong(
        lambda path: np.savez_compressed(path, z=np.zeros((1, 16, 21, 60, 104))),
        "z cannot be read: it would take .* more than 16 times the file's; save it with numpy.savez",
    ),
    "objects.npz": Wrong(lambda path: np.savez(path, z=np.array([{}], object)), "holds Python objects"),
    "large header.safetensors": Wrong(safetensors(b"{" + b" " * 2**25), "header of 33554433 bytes"),
    "claims.safetensors": Wrong(struct.pack("<Q", 2**62) + b"{}", "header alone should have"),
    # Headers that lie.
    "shape.safetensors": Wrong(safetensors_of_shape([1, 16, 2**40, 2**40, 4]), "damaged"),
    "product.safetensors": Wrong(safetensors_of_shape([2**32, 2**32]), "damaged"),
    "negative.safetensors": Wrong(safetensors_of_shape([-1, 16, 1, 1, 1]), "damaged"),
    "offsets.safetensors": Wrong(safetensors_of_shape([1], (4, 0)), "damaged"),
    "type.safetensors": Wrong(safetensors_of_shape([1], dtype="F77"), "damaged"),
    "json.safetensors": Wrong(safetensors(b"{" * 50_000), "damaged"),
    "huge.npy": Wrong(
        npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (1, 16, {2**40}, 1, 1)}}"), "it has"
    ),
    "negative.npy": Wrong(
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 16, 1, 1, 1)}"), "damaged"
    ),
    "true.npy": Wrong(
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 16, 1, 1, 1)}"), "damaged"
    ),
    "no type.npy": Wrong(npy("{'descr': 'zz', 'fortran_order': False, 'shape': (1,)}"), "damaged"),
    "half a header.npy": Wrong(npy("{'descr': '<f4', 'shape': ("), "damaged"),
    "no header.npy": Wrong(b"\x93NUMPY\x01\x00", "damaged"),
    "nested header.npy": Wrong(npy("(" * 9000), "damaged"),
    "version.npy": Wrong(npy("", version=b"\x09\x09"), "NumPy table"),
    "fields.npy": Wrong(lambda path: np.save(path, np.zeros(SHAPE, [("<b>", "f4")])), r"type \[\('\?b\?'"),
    "objects.npy": Wrong(
        lambda path: np.save(path, np.array([PrintsWhenUnpickled()]), allow_pickle=True), "Python objects"
    ),
    "cut.safetensors": Wrong(
        lambda path: write_half(path, lambda p: save_file({"z": Z}, p)), "damaged or cut off"
    ),
    "cut.pt": Wrong(lambda path: write_half(path, saved(Z)), "damaged or cut off"),
    "cut legacy.pt": Wrong(lambda path: write_half(path, lambda p: save_legacy(Z, p)), "damaged or cut off"),
    "cut.npy": Wrong(lambda path: write_half(path, lambda p: np.save(p, Z.numpy())), "damaged or cut off"),
    # Tensors that are no latent of this VAE.
    "complex.pt": Wrong(saved(Z.to(torch.complex64)), "type complex64; a latent has floating point numbers"),
    "int.npy": Wrong(lambda path: np.save(path, Z.numpy().astype(np.int32)), "type int32"),
    "bool.safetensors": Wrong(lambda path: save_file({"z": Z > 0}, path), "type BOOL"),
    "nan.pt": Wrong(
        saved(torch.where(torch.arange(Z.numel()).view(SHAPE) == 70, float("nan"), Z)),
        "1 value that is no number.*first in channel 1, latent frame 0, row 2, column 0",
    ),
    "infinite.npy": Wrong(
        lambda path: np.save(path, np.full(SHAPE, 1e300)), "960 values that are no numbers"
    ),
    "far.pt": Wrong(
        saved(Z.clamp(max=0) - 1001), r"holds values up to 1e\+03; those of a latent are within 20"
    ),
    "a value too far.npy": Wrong(
        lambda path: np.save(path, np.where(np.arange(Z.numel()).reshape(SHAPE) == 70, 1000.1, Z.numpy())),
        "nothing can be seen in this; generate or save it again",
    ),
    "batch.pt": Wrong(
        saved(torch.zeros((2, 16, 3, 4, 5))), r"a batch of 2; save one clip per file, such as latent\[0:1\]"
    ),
    "four.pt": Wrong(
        saved(torch.zeros((1, 4, 3, 4, 5))), r"shape \[1, 4, 3, 4, 5\]; a latent .* has \[1, 16, T, H, W\]"
    ),
    "wan2.2.pt": Wrong(
        saved(torch.zeros((1, 48, 3, 4, 5))), "has 48 channels where this VAE has 16; .* Wan 2.2 VAE"
    ),
    "wan2.1.pt": Wrong(saved(Z), "has 16 channels where this VAE has 48; .* Wan 2.1 VAE", PRESETS["wan2.2"]),
    "several, frames first.pt": Wrong(
        saved(torch.zeros((2, 3, 16, 4, 5))), r"a batch of 2; save one clip per file"
    ),
    "another VAE's or frames first.pt": Wrong(
        saved(torch.zeros((1, 48, 16, 4, 5))), r"48 frames before 16 channels, or another VAE's latent; save"
    ),
    "vector.pt": Wrong(saved(torch.zeros(16)), r"shape \[16\]; a latent .* has \[1, 16, T, H, W\]"),
    "scalar.npy": Wrong(lambda path: np.save(path, np.float32(1)), r"shape \[\]"),
    "six.pt": Wrong(saved(Z[None]), r"shape \[1, 1, 16, 3, 4, 5\]"),
    "no frames.pt": Wrong(saved(Z[:, :, :0]), "is empty; every dimension must be 1 or more"),
    "wide.pt": Wrong(saved(torch.zeros(1, 16, 1, 1, 513)), "too large; at most 1024 latent frames, 512 rows"),
    "long.pt": Wrong(saved(torch.zeros(1, 16, 1025, 1, 1)), "too large"),
    "several.pt": Wrong(saved({"a<b>": Z, "b\n": Z + 1}), r"holds 2 latents \(a\?b\?, b\?\); save one"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("name", WRONG)
def test_refused_in_one_sentence(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, path = WRONG[name], tmp_path / name
    if isinstance(wrong.content, bytes):
        path.write_bytes(wrong.content)
    else:
        wrong.content(path)
    with pytest.raises(ValueError, match=wrong.refusal) as refusal:
        read_latent(path, wrong.config)
    text = str(refusal.value)
    assert text.startswith(name) and text.endswith(".") and "\n" not in text and "<" not in text, text
    assert len(text) < 300 and "weights_only" not in text, text
    assert "ran" not in capsys.readouterr().out


def test_values_up_to_the_limit_are_read(tmp_path: Path) -> None:
    save_file({"latent": torch.full(SHAPE, -MAX_ABS)}, tmp_path / "far.safetensors")
    assert read_latent(tmp_path / "far.safetensors", WAN).min() == -MAX_ABS


def test_text_for_a_page() -> None:
    """A dtype, name or message from a file loses its markup and all lines but one."""
    assert printable("a<script>\n\x00b") == "a?script?b" and printable("x" * 99) == "x" * 60 + "..."
    assert (
        first_line(ValueError("wrong <b>.\nTraceback")) == "wrong ?b?"
        and first_line(KeyError()) == "KeyError"
    )
