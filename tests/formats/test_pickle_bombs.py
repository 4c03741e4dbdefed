"""Values that are slow to hash, compare, copy or print, wherever a pickle can put them: refused at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.fuzzing import WAN, try_latent
from support.fuzzing import file as file
from support.fuzzing import memory_and_time_stay_bounded as memory_and_time_stay_bounded
from support.torch_files import archive, legacy_file, pickled_int, pickled_text

from wanvae_app.formats.latent_file import parse_latent

SECONDS = 5.0  # of computing, on a busy machine; most take a hundredth
# Programs that leave a value on the stack, and in slot 0 of the memo.
VALUES = {
    "tuples in tuples": b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 500,
    "lists in lists": b"]q\x00" + b"](h\x00h\x00eq\x00" * 500,
    "dicts in dicts": b"}q\x00" + b"}(K\x01h\x00K\x02h\x00uq\x00" * 500,
    "a list in itself": b"]q\x00h\x00a",
    "a deep list": b"]" * 5000 + b"a" * 4999 + b"q\x00",
    "a long list": b"](" + b"N" * 60_000 + b"eq\x00",
    "a long tuple": b"(" + b"N" * 60_000 + b"tq\x00",
    "a long text": pickled_text("x" * 300_000) + b"q\x00",
    "a large number": b"\x8a\xff" + b"\x7f" * 255 + b"q\x00",
    "a global": b"ctorch\nfloat32\nq\x00",
    "a number": b"K\x01q\x00",
    "nothing": b"Nq\x00",
}
V = b"h\x00"  # the value again


def persistent_id(**changed: bytes) -> bytes:
    """A storage of 64 floats, with some parts of its persistent id exchanged."""
    parts = {
        "kind": pickled_text("storage"),
        "type": b"ctorch\nFloatStorage\n",
        "key": pickled_text("0"),
        "device": pickled_text("cpu"),
        "size": pickled_int(64),
        "view": b"",
    }
    return b"(" + b"".join((parts | changed).values()) + b"tQ"


def tensor(version: str = "v2", **changed: bytes) -> bytes:
    """A latent in that storage, with some arguments of its call exchanged."""
    sizes = (
        b"(" + b"".join(map(pickled_int, values)) + b"t" for values in ([1, 16, 1, 2, 2], [64, 4, 4, 2, 1])
    )
    shape, stride = sizes
    parts = {
        "storage": persistent_id(),
        "offset": b"K\x00",
        "shape": shape,
        "stride": stride,
        "gradient": b"\x89",
        "hooks": b"N",
        "dtype": b"ctorch\nfloat32\n" if version == "v3" else b"",
        "metadata": b"",
    }
    arguments = b"(" + b"".join((parts | changed).values()) + b"t"
    return f"ctorch._utils\n_rebuild_tensor_{version}\n".encode() + arguments + b"R"


def call(name: str, arguments: bytes) -> bytes:
    return f"c{name}\n".encode() + arguments + b"R"


# Programs that leave one thing on the stack and use the value for it.
USES = {
    "persistent id": V + b"Q",
    **{
        f"storage's {part}": tensor(storage=persistent_id(**{part: V}))
        for part in ("kind", "type", "key", "device", "size", "view")
    },
    **{
        f"tensor's {part}": tensor(**{part: V})
        for part in ("storage", "offset", "shape", "stride", "gradient", "hooks", "metadata")
    },
    "tensor's sizes": tensor(shape=V, stride=V),
    "tensor's dtype": tensor("v3", dtype=V),
    "tensor of a tensor": tensor(storage=tensor()),
    "arguments": call("torch._utils\n_rebuild_tensor_v2", V),
    "device": call("torch\ndevice", V),
    "device's argument": call("torch\ndevice", V + b"\x85"),
    "size": call("torch\nSize", V + b"\x85"),
    "ordered dict": call("collections\nOrderedDict", V),
    "bytes": call("_codecs\nencode", V + V + b"\x86"),
    "parameter": call("torch._utils\n_rebuild_parameter", V + V + V + b"\x87"),
    "path": call("pathlib\nPosixPath", V + b"\x85"),
    "scalar": call("numpy._core.multiarray\nscalar", V + V + b"\x86"),
    "namespace": b"cargparse\nNamespace\n)\x81" + V + b"b",
    "namespace's arguments": b"cargparse\nNamespace\n" + V + b"\x81",
    "new object": V + b")\x81",
    "set": b"\x8f(" + V + b"\x90",
    "frozen set": b"(" + V + b"\x91",
    "function": V + b")R",
    "global's module": V + pickled_text("float32") + b"\x93",
    "global's name": pickled_text("torch") + V + b"\x93",
    "global": V + V + b"\x93",
    "key": b"}" + V + b"Ns",
    "keys": b"}(" + (V + b"N") * 100 + b"u",
    "item": b"]" + V + b"a",
    "dictionary": V + b"NNs",
    "list": V + b"Na",
    "state": b"}" + V + b"b",
}


def check_quickly(content: bytes, file: Path) -> None:
    """Read a file as a latent: it is accepted or refused, within SECONDS."""
    start = time.process_time()
    try_latent(file, content)
    assert time.process_time() - start < SECONDS


def program(value: bytes, use: bytes, repeats: int) -> bytes:
    """A pickle of a list of a latent and the things that `use` leaves. Slot 0 holds the value."""
    return b"\x80\x02}(" + value + b"tb](" + tensor() + use * repeats + b"e."


@pytest.mark.parametrize("value", VALUES)
def test_wherever_a_pickle_can_put_them(value: str, file: Path) -> None:
    for use in USES.values():
        for repeats in (1, max(2, 40_000 // len(use))):
            data = program(VALUES[value], use, repeats)
            check_quickly(archive(data), file)
        check_quickly(legacy_file(data), file)


@pytest.mark.parametrize("value", VALUES)
def test_around_the_pickle_of_an_old_file(value: str, file: Path) -> None:
    data = b"\x80\x02" + tensor() + b"."
    before = b"\x80\x02}(" + VALUES[value] + b"tb"  # leaves an empty dictionary, and the value in slot 0
    for keys in (V, b"](" + V * 1000 + b"e", b"}" + V + V + b"s"):
        check_quickly(legacy_file(data, keys=before + keys + b"."), file)
    for system in (V, b"}" + pickled_text("little_endian") + V + b"s"):
        check_quickly(legacy_file(data, system=before + system + b"."), file)


def test_the_tensor_is_read_without_them(file: Path) -> None:
    """What is refused above is refused for its value: the same files without it are read."""
    for data in (b"\x80\x02" + tensor() + b".", b"\x80\x02" + tensor("v3") + b".", program(b"N", b"N", 9)):
        for content in (archive(data), legacy_file(data)):
            file.write_bytes(content)
            assert parse_latent(file, WAN).shape == (1, 16, 1, 2, 2)


def test_memo(file: Path) -> None:
    """A slot is a number below a bound, and a pickle refers to a bounded number of values."""
    slots = b"".join(
        b"Nr" + (i << 16).to_bytes(4, "little") for i in range(65_000)
    )  # of few different hashes
    for pickle in (b"\x80\x04" + b"N\x94" * 200_000 + b".", b"\x80\x02" + slots + b"."):
        check_quickly(archive(pickle), file)
        file.write_bytes(archive(pickle))
        with pytest.raises(ValueError, match="refers to more than 131072 values"):
            parse_latent(file, WAN)


def test_names_in_archives(file: Path) -> None:
    """Names of entries may have 65,535 bytes."""
    check_quickly(archive(b"\x80\x02](" + tensor() * 300 + b"e.", folder="x" * 60_000), file)
