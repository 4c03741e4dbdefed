"""Pickles put together at random are read or refused in one sentence, in bounded time and memory."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import WAN, fuzz, one_sentence, try_checkpoint, try_latent
from support.fuzzing import file as file
from support.fuzzing import memory_and_time_stay_bounded as memory_and_time_stay_bounded
from support.torch_files import (
    AllocatesWhenUnpickled,
    archive,
    as_bytes,
    legacy_file,
    pickled_int,
    pickled_text,
    tensor_pickle,
)

from wanvae_app.formats.latent_file import parse_latent

GLOBALS = (
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch FloatStorage",
    "torch.storage UntypedStorage",
    "torch float32",
    "torch Size",
    "torch load",
    "torch Tensor",
    "collections OrderedDict",
    "collections Counter",
    "builtins bytearray",
    "builtins getattr",
    "os system",
    "_codecs encode",
    "torch device",
    "torch._utils _rebuild_sparse_tensor",
    "torch.jit load",
    "numpy dtype",
)
parts = st.one_of(
    st.sampled_from(GLOBALS).map(lambda name: f"c{name.replace(' ', chr(10))}\n".encode()),
    st.sampled_from([-1, 0, 1, 16, 64, 2**31, 2**62]).map(pickled_int),
    st.sampled_from(["storage", "0", "cpu", "latent", "torch", "float32"]).map(pickled_text),
    st.sampled_from([b"R", b"Q", b"b", b"\x81", b"\x93", b"i", b"o", b"\x82\x01", b"2", b"0", b"."]),
    st.sampled_from(
        [b"(", b"t", b"\x85", b"\x86", b"\x87", b"}", b"]", b")", b"N", b"\x88", b"s", b"u", b"a", b"e"]
    ),
    st.integers(0, 5).map(lambda i: b"q" + bytes([i])),
    st.integers(0, 5).map(lambda i: b"h" + bytes([i])),
    st.just(b"r\xff\xff\xff\x7f"),  # puts into slot two billion of the memo
    st.binary(max_size=3),
)


numbers = st.integers(0, 2**62) | st.integers(-2, 20)


@fuzz(150)
@given(
    storage=numbers,
    offset=numbers,
    shape=st.lists(numbers, max_size=6),
    stride=st.lists(numbers, max_size=6),
)
def test_tensors_in_pickles(
    file: Path, storage: int, offset: int, shape: list[int], stride: list[int]
) -> None:
    data = tensor_pickle(storage, offset, shape, stride)
    try_latent(file, archive(data))
    try_latent(file, legacy_file(data))


@pytest.mark.parametrize("stride", [[0] * 5, [64, 4, 4, 2, 1], [64, 4, 4, 2, 2], [2**61] * 5])
def test_strides(file: Path, stride: list[int]) -> None:
    """`tensor_pickle` is read if its tensor fits: what the fuzz tests see refused is refused for its numbers."""
    file.write_bytes(archive(tensor_pickle(64, 0, [1, 16, 1, 2, 2], stride)))
    z = one_sentence(lambda: parse_latent(file, WAN))
    assert (z is not None) == (stride in ([0] * 5, [64, 4, 4, 2, 1]))


@fuzz(250)
@given(pieces=st.lists(parts, max_size=40))
def test_programs_in_pickles(file: Path, pieces: list[bytes]) -> None:
    data = b"\x80\x02" + b"".join(pieces) + b"."
    for content in (archive(data), legacy_file(data), data):
        try_latent(file, content)
    try_checkpoint(file, archive(data))


def saved(value: object) -> bytes:
    return as_bytes(torch.save, value)


def archive_of_many_entries() -> bytes:
    """An archive whose list of entries takes a hundred times its size in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for i in range(20_000):
            file.writestr(f"data/{i}", b"")
    return buffer.getvalue()


SAME_HASH = b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(35_000))
NESTED = b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60
SAME_LIST = b"](" + b"K\x01K\x02\x86q\x00" + b"h\x00" * 60_000 + b"eq\x01"
SMALL_FILES = {
    "bytearray": lambda: saved(AllocatesWhenUnpickled()),
    "strides of zero": lambda: saved({"latent": torch.zeros(1).expand(1, 16, 60, 1000, 1000)}),
    "strides of zero, as a checkpoint": lambda: saved({"decoder.conv1.weight": torch.zeros(1).expand(2**40)}),
    "numbers of one hash": lambda: archive(b"\x80\x02}(" + SAME_HASH + b"u."),
    "tuples in tuples as a key": lambda: archive(b"\x80\x02}(" + NESTED + b"Nu."),
    "a list in itself": lambda: archive(b"\x80\x02]q\x00(" + b"h\x00" * 60_000 + b"e."),
    "lists in lists": lambda: archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "one list in many dictionaries": lambda: archive(
        b"\x80\x02" + SAME_LIST + b"ccollections\nOrderedDict\nq\x02" + b"h\x02h\x01\x85R0" * 20_000 + b"N."
    ),
    "many dictionaries": lambda: archive(b"\x80\x02" + b"}" * 500_000 + b"."),
    "entries": archive_of_many_entries,
}


@pytest.mark.parametrize("kind", SMALL_FILES)
def test_small_files_that_would_be_large_or_slow(kind: str, file: Path) -> None:
    content = SMALL_FILES[kind]()
    start = time.process_time()
    try_latent(file, content)
    try_checkpoint(file, content)
    assert time.process_time() - start < 10
