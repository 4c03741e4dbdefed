"""Readers of files that are not trusted: whatever lies in them, there is a result or one clear ValueError.

In bounded time and memory. Always the same examples; FUZZ_EXAMPLES=5000 pytest tests/test_fuzz.py tries others.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from wanvae_app.checkpoint import check, load_vae, save_tensors
from wanvae_app.config import PRESETS
from wanvae_app.intake import describe
from wanvae_app.latents import read_latent
from wanvae_app.vae import WanVAE

WAN = PRESETS["wan2.1"]
MAX_GROWTH = 300 * 2**20  # bytes that this process may grow by, whatever it reads
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


def fuzz(num_examples: int) -> settings:
    return settings(
        max_examples=int(EXAMPLES or num_examples),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=5000,  # milliseconds for one example, on a busy machine
        suppress_health_check=list(HealthCheck),
    )


def resident(key: str) -> int:
    """Bytes of this process's memory: VmRSS now, or VmHWM at most so far."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


@pytest.fixture(autouse=True)
def memory_stays_bounded() -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    yield
    grown = resident("VmHWM") - before
    assert grown < MAX_GROWTH, f"{grown / 2**20:.0f} MiB more than before"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "upload"


def one_sentence(read: Callable[[], Any]) -> Any:
    """What `read` returns, or None after a refusal as it should be."""
    try:
        return read()
    except ValueError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and 20 < len(text) < 500, text
        return None


def try_latent(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    z = one_sentence(lambda: read_latent(file, WAN))
    if z is not None:
        assert z.ndim == 5 and z.shape[:2] == (1, 16) and z.dtype == torch.float32 and z.isfinite().all()
        assert z.numel() <= len(content), "a value takes a byte at least"


def try_checkpoint(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    one_sentence(lambda: check(file))


def written(write: Callable[[Any, Any], None], value: Any) -> bytes:
    buffer = io.BytesIO()
    write(value, buffer)
    return buffer.getvalue()


def legacy(value: Any, file: Any) -> None:
    torch.save(value, file, _use_new_zipfile_serialization=False)


@cache
def latents() -> dict[str, bytes]:
    """A latent in every format."""
    z = torch.ones(1, 16, 2, 3, 2)
    return {
        "safetensors": save({"latent": z, "other": z.half()}),
        "archive": written(torch.save, {"latent": z, "list": [torch.nn.Parameter(z), 3, "x", None]}),
        "legacy": written(legacy, {"latent": z, "bf16": z.bfloat16()}),
        "fp8": written(torch.save, z.to(torch.float8_e4m3fn)),
        "numpy": written(lambda value, file: np.save(file, value), z.numpy()),
    }


@cache
def checkpoints() -> dict[str, bytes]:
    """A narrow VAE in every format."""
    config = replace(WAN, base_dim=1, decoder_base_dim=1, dim_mult=(1, 2), temporal_downsample=(True,))
    vae = WanVAE(config)
    return {
        "safetensors": save(save_tensors(vae, "diffusers")),
        "archive": written(torch.save, save_tensors(vae, "official")),
        "legacy": written(legacy, save_tensors(vae, "official")),
    }


@cache
def videos() -> dict[str, bytes]:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    gif = written(lambda value, file: value.save(file, "gif", save_all=True, append_images=frames), frames[0])
    clip = Path(__file__).parents[1] / "assets" / "samples" / "Fish pond.mp4"
    return {"gif": gif, "mp4": clip.read_bytes()[:4000], "webm": b"\x1a\x45\xdf\xa3" + bytes(range(256))}


# Where headers lie: at the beginning, and of archives at the end.
places = st.one_of(st.integers(0, 40), st.integers(0, 3000), st.integers(-700, -1), st.integers(0, 10**6))
odd_bytes = st.one_of(
    st.binary(max_size=9),
    st.sampled_from(
        [b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"9" * 9, b"-1", b"{}", b"[", b"(", b"q\x00"]
    ),
)
edits = st.lists(
    st.tuples(st.sampled_from(["put", "insert", "cut", "end", "repeat"]), places, odd_bytes), max_size=6
)


def edited(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for how, place, data in edits:
        at = place % (len(content) + 1)
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


@pytest.mark.parametrize("kind", ["gif", "mp4", "webm"])
@fuzz(10)
@given(edits=edits)
def test_videos_edited(kind: str, file: Path, edits: list[tuple[str, int, bytes]]) -> None:
    file.write_bytes(edited(videos()[kind], edits))
    one_sentence(lambda: describe(file, WAN))


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


@fuzz(300)
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


@fuzz(300)
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


def pickled_int(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def pickled_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


GLOBALS = (
    *(
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "torch._utils _rebuild_parameter",
    ),
    *(
        "torch FloatStorage",
        "torch.storage UntypedStorage",
        "torch float32",
        "torch Size",
        "torch load",
        "torch Tensor",
    ),
    *(
        "collections OrderedDict",
        "collections Counter",
        "builtins bytearray",
        "builtins getattr",
        "os system",
    ),
    *(
        "_codecs encode",
        "torch device",
        "torch._utils _rebuild_sparse_tensor",
        "torch.jit load",
        "numpy dtype",
    ),
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
    st.just(b"r\xff\xff\xff\x7f"),  # a memo of two billion places
    st.binary(max_size=3),
)


def tensor_pickle(storage: int, offset: int, shape: list[int], stride: list[int]) -> bytes:
    """A pickle of {"latent": a tensor}, with these numbers in it."""
    place = pickled_text("storage") + b"ctorch\nFloatStorage\n" + pickled_text("0") + pickled_text("cpu")
    numbers = b"".join(b"(" + b"".join(map(pickled_int, values)) + b"t" for values in (shape, stride))
    tensor = b"((" + place + pickled_int(storage) + b"tQ" + pickled_int(offset) + numbers + b"\x89N"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor + b"tR"
    return b"\x80\x02}" + pickled_text("latent") + call + b"s."


def archive(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in {"data.pkl": data, "data/0": bytes(256), "version": b"3\n"}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def old_file(data: bytes) -> bytes:
    start = latents()["legacy"]
    magic = start[: start.index(b".") + 1]
    rest = pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return magic + rest + data + pickle.dumps(["0"], 2) + struct.pack("<q", 64) + bytes(256)


small = st.integers(0, 2**62) | st.integers(-2, 20)


@fuzz(300)
@given(storage=small, offset=small, shape=st.lists(small, max_size=6), stride=st.lists(small, max_size=6))
def test_tensors_in_pickles(
    file: Path, storage: int, offset: int, shape: list[int], stride: list[int]
) -> None:
    data = tensor_pickle(storage, offset, shape, stride)
    try_latent(file, archive(data))
    try_latent(file, old_file(data))


@pytest.mark.parametrize("stride", [[0] * 5, [64, 4, 4, 2, 1], [64, 4, 4, 2, 2], [2**61] * 5])
def test_strides(file: Path, stride: list[int]) -> None:
    """The pickle above is read if its tensor fits, so that what is tested is not refused for something else."""
    file.write_bytes(archive(tensor_pickle(64, 0, [1, 16, 1, 2, 2], stride)))
    z = one_sentence(lambda: read_latent(file, WAN))
    assert (z is not None) == (stride in ([0] * 5, [64, 4, 4, 2, 1]))


@fuzz(500)
@given(pieces=st.lists(parts, max_size=40))
def test_programs_in_pickles(file: Path, pieces: list[bytes]) -> None:
    data = b"\x80\x02" + b"".join(pieces) + b"."
    for content in (archive(data), old_file(data), data):
        try_latent(file, content)
    try_checkpoint(file, archive(data))


@fuzz(60)
@given(data=st.data())
def test_checkpoints_of_odd_shapes(file: Path, data: st.DataObject) -> None:
    config = replace(WAN, base_dim=1, decoder_base_dim=1, dim_mult=(1, 2), temporal_downsample=(True,))
    style = data.draw(st.sampled_from(["official", "diffusers"]))
    tensors = dict(save_tensors(WanVAE(config), style))
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
