"""Readers of damaged or hostile files return a result or refuse in one sentence, in bounded time and memory.

Every run has the same examples. FUZZ_EXAMPLES=5000 pytest tests/formats/test_fuzz_files.py tries 5000 random ones.
"""

from __future__ import annotations

import json
import re
import struct
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from support.fuzzing import WAN, fuzz, latents, one_sentence, try_checkpoint, try_latent
from support.fuzzing import file as file
from support.fuzzing import memory_and_time_stay_bounded as memory_and_time_stay_bounded
from support.torch_files import as_bytes, save_legacy

from wanvae_app.formats.checkpoint import check, external_state_dict, load_vae
from wanvae_app.formats.key_maps import NAMINGS
from wanvae_app.model.vae import WanVAE
from wanvae_app.page.upload import describe_upload


@cache
def checkpoints() -> dict[str, bytes]:
    """A narrow VAE in every format."""
    config = replace(WAN, base_dim=1, decoder_base_dim=1, dim_mult=(1, 2), temporal_downsample=(True,))
    vae = WanVAE(config)
    return {
        "safetensors": save(external_state_dict(vae, "diffusers")),
        "archive": as_bytes(torch.save, external_state_dict(vae, "official")),
        "legacy": as_bytes(save_legacy, external_state_dict(vae, "official")),
    }


@cache
def videos() -> dict[str, bytes]:
    """The beginning of a video in every container."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    gif = as_bytes(
        lambda value, file: value.save(file, "gif", save_all=True, append_images=frames), frames[0]
    )
    clip = Path(__file__).parents[2] / "assets" / "samples" / "Fish pond.mp4"
    avif = as_bytes(
        lambda value, file: value.save(file, "avif", save_all=True, append_images=frames), frames[0]
    )
    return {
        "gif": gif,
        "mp4": clip.read_bytes()[:4000],
        "webm": b"\x1a\x45\xdf\xa3" + bytes(range(256)),
        "ts": b"".join(b"G" + bytes(range(187)) for _ in range(9)),
        "avif": avif,
    }


@pytest.fixture(scope="module")
def reading_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The process that reads what is no video; its start takes longer on a busy machine than an example may."""
    path = tmp_path_factory.mktemp("first") / "letter.pt"
    path.write_text("Dear Sir or Madam")
    one_sentence(lambda: describe_upload(path, WAN))


# Headers are at the beginning of a file, and of an archive at the end.
positions = st.one_of(st.integers(0, 40), st.integers(0, 3000), st.integers(-700, -1), st.integers(0, 10**6))
odd_bytes = st.one_of(
    st.binary(max_size=9),
    st.sampled_from(
        [b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"9" * 9, b"-1", b"{}", b"[", b"(", b"q\x00"]
    ),
)
edits = st.lists(
    st.tuples(st.sampled_from(["put", "insert", "cut", "end", "repeat"]), positions, odd_bytes), max_size=6
)


def edited(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """The content after edits, each of a kind, at a position (modulo the length), with some bytes."""
    for how, position, data in edits:
        at = position % (len(content) + 1)
        head, tail = content[:at], content[at:]
        content = {
            "put": head + data + tail[len(data) :],
            "insert": head + data + tail,
            "cut": head + tail[len(data) :],
            "end": head or content,
            "repeat": head + tail[:200] + tail,
        }[how]
    return content


@pytest.mark.parametrize("kind", ["safetensors", "archive", "legacy", "fp8", "numpy"])
@fuzz(150)
@given(edits=edits)
def test_latents_edited(kind: str, file: Path, edits: list[tuple[str, int, bytes]]) -> None:
    try_latent(file, edited(latents()[kind], edits))


@pytest.mark.parametrize("kind", ["safetensors", "archive", "legacy"])
@fuzz(60)
@given(edits=edits)
def test_checkpoints_edited(kind: str, file: Path, edits: list[tuple[str, int, bytes]]) -> None:
    try_checkpoint(file, edited(checkpoints()[kind], edits))


@pytest.mark.parametrize("kind", ["gif", "mp4", "webm", "ts", "avif"])
@pytest.mark.usefixtures("reading_process")
@fuzz(10)
@given(edits=edits)
def test_videos_edited(kind: str, file: Path, edits: list[tuple[str, int, bytes]]) -> None:
    file.write_bytes(edited(videos()[kind], edits))
    one_sentence(lambda: describe_upload(file, WAN))


sizes = st.one_of(
    st.integers(0, 17), st.sampled_from([-1, 16, 48, 2**20, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30])
)
shapes = st.one_of(st.lists(sizes, max_size=7), st.just([1, 16, 1, 2, 2]), st.just([16, 2, 2]))
names = st.one_of(st.sampled_from(["latent", "z", "__metadata__", "a.b", ""]), st.text(max_size=9))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=17) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@fuzz(150)
@given(
    tensors=st.dictionaries(
        names,
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(
                    ["F32", "F16", "BF16", "F8_E4M3", "F4", "I64", "BOOL", "C64", "U128", ""]
                ),
                "shape": shapes,
                "data_offsets": st.one_of(st.lists(sizes, min_size=2, max_size=2), st.just([0, 256])),
            }
        )
        | json_values,
        max_size=3,
    ),
    num_bytes=st.sampled_from([0, 1, 256, 4096]),
)
def test_safetensors_headers(file: Path, tensors: dict[str, Any], num_bytes: int) -> None:
    header = json.dumps(tensors).encode(errors="replace")
    content = struct.pack("<Q", len(header)) + header + bytes(num_bytes)
    try_latent(file, content)
    try_checkpoint(file, content)


@fuzz(150)
@given(
    descr=st.one_of(
        st.sampled_from(
            ["<f4", ">f8", "<f2", "<f16", "<c8", "|O", "|V2", "<U9", "<M8[s]", "|V2147483647", "<i8", "f"]
        ),
        st.lists(st.tuples(st.text(max_size=3), st.sampled_from(["<f4", "|O"])), max_size=3),
        st.text(max_size=9),
    ),
    shape=shapes | json_values,
    fortran=st.booleans() | st.integers(),
    version=st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x00\x07"]),
    num_bytes=st.sampled_from([0, 1, 256, 4096]),
    padding=st.sampled_from(["", " ", "(" * 500, "L", "\x00", "#" * 12_000]),
)
def test_numpy_headers(
    file: Path, descr: Any, shape: Any, fortran: Any, version: bytes, num_bytes: int, padding: str
) -> None:
    shape = tuple(shape) if isinstance(shape, list) else shape
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}{padding}\n"
    header = text.encode("latin1", errors="replace")
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    try_latent(file, b"\x93NUMPY" + version + length + header + bytes(num_bytes))


@fuzz(60)
@given(data=st.data())
def test_checkpoints_of_odd_shapes(file: Path, data: st.DataObject) -> None:
    config = replace(WAN, base_dim=1, decoder_base_dim=1, dim_mult=(1, 2), temporal_downsample=(True,))
    naming = data.draw(st.sampled_from(NAMINGS))
    tensors = dict(external_state_dict(WanVAE(config), naming))
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=5)):
        change = data.draw(st.sampled_from(["drop", "rename", "shape", "type"]))
        tensor = tensors.pop(name, torch.zeros(1))
        if change == "rename":
            tensors[re.sub(r"\d", str(data.draw(st.integers(0, 10**9))), name)] = tensor
        elif change == "shape":
            tensors[name] = torch.zeros(data.draw(st.lists(st.integers(0, 9), max_size=5)))
        elif change == "type":
            tensors[name] = tensor.to(data.draw(st.sampled_from([torch.int8, torch.bool, torch.float16])))
    file.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    one_sentence(lambda: load_vae(file))


@fuzz(100)
@given(known=json_values | st.fixed_dictionaries({"latents_mean": json_values, "latents_std": json_values}))
def test_configurations(file: Path, known: Any) -> None:
    file.write_bytes(checkpoints()["safetensors"])
    config = file.with_name("config.json")
    config.write_text(json.dumps(known))
    try:
        one_sentence(lambda: check(file))
    finally:
        config.unlink()


def of_safetensors(header: bytes, num_bytes: int = 4) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(num_bytes)


def of_numpy(shape: str, version: bytes = b"\x01\x00", padding: int = 0) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}{' ' * padding}".encode()
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(header)) + header


ONE = b'"z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
LONG_HEADERS = {
    "dimensions": of_safetensors(ONE.replace(b"[1]", b"[" + b"1," * 400_000 + b"1]").join((b"{", b"}"))),
    "tensors": of_safetensors(
        b"{"
        + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(18_000))
        + b"}",
        0,
    ),
    "a name": of_safetensors(ONE.replace(b"z", b"z" * 900_000).join((b"{", b"}"))),
    "one name again": of_safetensors(b"{" + b",".join([ONE] * 18_000) + b"}"),
    "texts": of_safetensors(b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(90_000)) + b"}}"),
    "nesting": of_safetensors(b'{"a":' * 200_000),
    "an array's": of_numpy("(1,)", b"\x02\x00", 3_000_000),
    "digits": of_numpy("(" + "9" * 4000 + ",)"),
    "hexadecimal digits": of_numpy("(0x" + "f" * 9000 + ",)"),
    "large dimensions": of_numpy("(" + "0xffffffffffffffff," * 450 + ")"),
    "brackets": of_numpy("(" * 9000),
    "operators": of_numpy("-" * 9000 + "1"),
}


@pytest.mark.parametrize("kind", LONG_HEADERS)
def test_headers_that_would_be_large_or_slow(kind: str, file: Path) -> None:
    start = time.process_time()
    try_latent(file, LONG_HEADERS[kind])
    try_checkpoint(file, LONG_HEADERS[kind])
    assert time.process_time() - start < 5
