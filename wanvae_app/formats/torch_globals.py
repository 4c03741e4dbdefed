"""What torch.save's pickles refer to by name: dtypes, storages, and the functions that rebuild tensors.

torch.load(weights_only=True) calls the functions of an allowlist. Some of these allocate gigabytes for a few
bytes of pickle (bytearray, tensors with strides of zero). Here nothing is called that a pickle names: stand-ins
return a View, which records what would be built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wanvae_app.formats.untrusted_text import Refusal, printable

MAX_DIMS = 16
MAX_SIZE = 2**60  # of a dimension, a stride, an offset or a storage
MAX_KEY = 200  # characters of a storage's key, or of a global's name
PATHS = ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
STORAGES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch ComplexFloatStorage": torch.complex64,
    "torch ComplexDoubleStorage": torch.complex128,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch.storage UntypedStorage": torch.uint8,
}
DTYPES = {f"torch {name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


@dataclass(frozen=True)
class Global:
    """A class, function or dtype that the pickle refers to by name: "module name"."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A flat array of values that tensors are views of. It lies outside the pickle, under `key`."""

    key: str
    dtype: torch.dtype
    num_values: int


@dataclass(frozen=True)
class View:
    """A tensor as a strided view of a storage. Offset and strides count values of `dtype`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor once it is contiguous."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Number of the storage's values from the first that the view uses to the last, inclusive."""
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return reach + 1 if math.prod(self.shape) else 0


def object_refusal(what: str) -> Refusal:
    """The Refusal of a pickle that holds `what`: a class, a function or an opcode."""
    return Refusal(
        f"holds Python objects ({printable(what)}), which are not read for safety; save plain tensors alone, "
        "with torch.save(tensor, file) or as .safetensors."
    )


def storage_key(key: Any) -> str:
    """The key of a storage as text, from text or a whole number. Raises ValueError for anything else.

    Nothing else is hashed or printed: the hash of nested tuples takes time exponential in their depth.
    """
    if type(key) is int and 0 <= key < 2**64:  # an address, in files of old versions
        return str(key)
    if type(key) is not str or not 0 < len(key) <= MAX_KEY:
        raise ValueError("a storage whose key is no short text")
    return key


def find_global(name: str) -> Global:
    """The global "module name". Raises Refusal unless the pickles of tensors need it."""
    if name in CALLABLES or name in STORAGES or name in DTYPES:
        return Global(name)
    raise object_refusal(name.replace(" ", "."))


def storage_of(persistent_id: Any) -> Storage:
    """The storage of a persistent id: ("storage", type, key, device, number of values).

    PyTorch before 1.6 appends None for a storage that is no view of another. Raises Refusal for other ids,
    ValueError for an impossible key or number of values.
    """
    if type(persistent_id) is not tuple or len(persistent_id) not in (5, 6):
        raise object_refusal("a reference to something else than a storage")
    kind, storage_type, key, _, num_values = persistent_id[:5]
    is_view = len(persistent_id) == 6 and persistent_id[5] is not None
    if type(kind) is not str or type(storage_type) is not Global:
        raise object_refusal("a reference to something else than a storage")
    if kind != "storage" or is_view or storage_type.name not in STORAGES:
        raise object_refusal(kind)
    if type(num_values) is not int or not 0 <= num_values < MAX_SIZE:
        raise ValueError("a storage of impossible size")
    return Storage(storage_key(key), STORAGES[storage_type.name], num_values)


def _rebuild_tensor(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> View:
    """The View for the arguments of torch._utils._rebuild_tensor_v2."""
    return _view(storage, offset, shape, stride, None, metadata)


def _rebuild_typed_tensor(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    dtype: Global,
    metadata: Any = None,
) -> View:
    """The View for the arguments of torch._utils._rebuild_tensor_v3, whose storage is untyped bytes."""
    if type(dtype) is not Global:
        raise ValueError("a tensor whose dtype is none")
    return _view(storage, offset, shape, stride, DTYPES[dtype.name], metadata)


def _view(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype | None,
    metadata: Any,
) -> View:
    """A View with plausible numbers, in the storage's dtype or another.

    The arguments can be anything that a pickle holds: types are checked before anything is compared. Raises Refusal
    for a lazily negated tensor, ValueError for impossible sizes.
    """
    if metadata:  # conjugated or negated, lazily
        raise object_refusal("a lazily negated tensor")
    if type(storage) is not Storage:
        raise ValueError("a tensor without a storage")
    if type(shape) not in (tuple, list) or type(stride) not in (tuple, list):
        raise ValueError("a tensor without a shape")
    if not len(shape) == len(stride) <= MAX_DIMS:
        raise ValueError(f"a tensor of {len(shape)} dimensions and {len(stride)} strides")
    if any(type(n) is not int or not 0 <= n < MAX_SIZE for n in (offset, *shape, *stride)):
        raise ValueError("a tensor of impossible size")
    return View(storage, offset, tuple(shape), tuple(stride), dtype or storage.dtype)


def _ordered_dict(*items: Any) -> dict[str, Any]:
    if items:
        raise object_refusal("OrderedDict with items, as Python 2 wrote it")
    return {}


# Classes whose objects people save beside a tensor: paths, settings, numbers, times. They are read as None.
HARMLESS = (
    *(f"pathlib{local} {kind}" for local in ("", "._local") for kind in PATHS),
    *(f"numpy{core}.multiarray scalar" for core in (".core", "._core")),
    *("numpy dtype", "argparse Namespace", "types SimpleNamespace", "uuid UUID", "decimal Decimal"),
    *(f"datetime {kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")),
    *(
        f"{module} {kind}"
        for module in ("__builtin__", "builtins")
        for kind in ("set", "frozenset", "complex")
    ),
)
# What a pickle may call, and the stand-in that is called in its place. No stand-in copies or computes: a pickle
# can pass one result on in a hundred thousand calls.
CALLABLES: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v3": _rebuild_typed_tensor,
    "torch._utils _rebuild_parameter": lambda data, requires_grad=True, hooks=None: data,
    "collections OrderedDict": _ordered_dict,
    "torch Size": lambda items=(): items,
    "torch device": lambda *args: None,
    "_codecs encode": lambda text, encoding="": text,  # bytes
    **dict.fromkeys(HARMLESS, lambda *args: None),
}
