"""Pickles as data: what torch.save wrote is taken apart, and nothing that it names is ever called.

torch.load(weights_only=True) calls a list of functions, some of which make gigabytes out of a few bytes
(bytearray, tensors with strides of zero). Tensors need two of them, and what these would make is noted here.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import torch

from wanvae_app.formats.lazy_tensor import Refusal, plain

MAX_DIMS = 16
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
class Name:
    """Something that the pickle names instead of holding it: a type or a function, "module name"."""

    text: str


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are views of, which lie elsewhere in the file."""

    key: str
    dtype: torch.dtype
    num_values: int


@dataclass(frozen=True)
class View:
    """A tensor: where in its storage it lies, in values of `dtype`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of its values, were they stored without repetition."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Values from its first to its last in the storage."""
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return reach + 1 if math.prod(self.shape) else 0


def unpickle(file: IO[bytes]) -> Any:
    """The next pickle in a file: dicts, lists, tuples, numbers, text, and a View for each tensor.

    Raises Refusal for a pickle that holds anything else; whatever comes up (IndexError, KeyError, TypeError,
    ValueError) for one that is damaged. Takes time and memory in proportion to the pickle's length.
    """
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    arg: Any
    for opcode, arg, _ in pickletools.genops(file):
        match opcode.name:
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(arg)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(arg)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "APPEND":
                item = stack.pop()
                _container(stack[-1], list).append(item)
            case "APPENDS":
                items = since_mark()
                _container(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(-2), stack.pop()] if opcode.name == "SETITEM" else since_mark()
                _fill(_container(stack[-1], dict), items)
            case "GLOBAL":
                stack.append(_name(arg))
            case "STACK_GLOBAL":
                name = stack.pop()
                stack.append(_name(f"{stack.pop()} {name}"))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                args = stack.pop()
                stack.append(_CALLS[stack.pop().text](*args))
            case "BUILD":  # the attributes of an OrderedDict or a Parameter
                stack.pop()
            case name:
                raise _not_read(name)
    raise EOFError("its pickle has no end")


def _name(text: str) -> Name:
    if text in _CALLS or text in STORAGES or text in DTYPES:
        return Name(text)
    raise _not_read(text.replace(" ", "."))


def _not_read(what: str) -> Refusal:
    return Refusal(
        f"holds Python objects ({plain(what)}), which are not read for safety; save plain tensors alone, "
        "with torch.save(tensor, file) or as .safetensors."
    )


def _container(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} stands for a {kind.__name__} in its pickle")
    return value


def _fill(target: dict[str, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        # As text, whose hashes nobody can choose: those of numbers may all be one, of nested tuples never end.
        name = str(key) if isinstance(key, str | int | float | None) else type(key).__name__
        target[name] = value


def _storage(value: Any) -> Storage:
    kind, name, key, _, num_values, *views = value
    if kind != "storage" or views not in ([], [None]) or name.text not in STORAGES:
        raise _not_read(str(kind) if isinstance(kind, str) else "")
    if type(num_values) is not int or not 0 <= num_values < 2**60:
        raise ValueError("a storage of impossible size")
    return Storage(key, STORAGES[name.text], num_values)


def _view(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> View:
    return _typed_view(storage, offset, shape, stride, requires_grad, hooks, Name(""), metadata)


def _typed_view(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    dtype: Name,
    metadata: Any = None,
) -> View:
    """A view of untyped bytes as `dtype`."""
    if metadata:  # conjugated or negated, lazily
        raise _not_read("a lazily negated tensor")
    if not len(shape) == len(stride) <= MAX_DIMS:
        raise ValueError(f"a tensor of {len(shape)} dimensions and {len(stride)} strides")
    if any(type(n) is not int or not 0 <= n < 2**60 for n in (offset, *shape, *stride)):
        raise ValueError("a tensor of impossible size")
    return View(
        storage, offset, tuple(shape), tuple(stride), DTYPES[dtype.text] if dtype.text else storage.dtype
    )


def _ordered_dict(*items: Any) -> dict[str, Any]:
    if items:
        raise _not_read("OrderedDict with items, as Python 2 wrote it")
    return {}


# What a pickle may call, and what stands for the result. Nothing here copies or computes: results can be
# passed to the next call a hundred thousand times.
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor": _view,
    "torch._utils _rebuild_tensor_v2": _view,
    "torch._utils _rebuild_tensor_v3": _typed_view,
    "torch._utils _rebuild_parameter": lambda data, requires_grad=True, hooks=None: data,
    "collections OrderedDict": _ordered_dict,
    "torch Size": lambda items=(): items,
    "torch device": lambda *args: None,
    "_codecs encode": lambda text, encoding="": text,  # bytes
}
