"""Pickles as data: reads what torch.save writes, and calls nothing that a pickle names."""

from __future__ import annotations

import pickletools
from typing import IO, Any, TypeVar

from wanvae_app.formats.torch_globals import (
    CALLABLES,
    HARMLESS,
    MAX_KEY,
    Global,
    find_global,
    object_refusal,
    storage_of,
)

MAX_MEMO = 2**17  # values that a pickle can refer back to; a whole checkpoint's has some thousand
MAX_ARGUMENTS = 16  # of a call
T = TypeVar("T")


def unpickle(file: IO[bytes]) -> Any:
    """The next pickle in a file: dicts, lists, tuples, numbers, text, and a View for each tensor.

    Objects of classes that are HARMLESS become None.

    Takes time and memory in proportion to the pickle's length. A pickle can refer to one value many times, so a few
    bytes can state a tree of any size. Nothing but text and numbers is therefore hashed, compared, copied or printed.

    Raises:
        Refusal: the pickle holds anything else.
        AttributeError, EOFError, IndexError, KeyError, TypeError, ValueError: the pickle is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []  # heights of the stack at each MARK
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        """Pop what was pushed since the last MARK."""
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
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                slot = len(memo) if arg is None else arg
                if slot >= MAX_MEMO:
                    raise ValueError(f"its pickle refers to more than {MAX_MEMO} values")
                memo[slot] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "APPEND":
                item = stack.pop()
                _expect(stack[-1], list).append(item)
            case "APPENDS":
                items = since_mark()
                _expect(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(-2), stack.pop()] if opcode.name == "SETITEM" else since_mark()
                _set_items(_expect(stack[-1], dict), items)
            case "GLOBAL":
                stack.append(find_global(arg))
            case "STACK_GLOBAL":
                name, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                stack.append(find_global(f"{module[:MAX_KEY]} {name[:MAX_KEY]}"))
            case "BINPERSID":
                stack.append(storage_of(stack.pop()))
            case "REDUCE":
                arguments = _expect(stack.pop(), tuple)
                if len(arguments) > MAX_ARGUMENTS:
                    raise ValueError(f"its pickle calls with {len(arguments)} arguments")
                stack.append(CALLABLES[_expect(stack.pop(), Global).name](*arguments))
            case "NEWOBJ":
                stack.pop()  # its arguments
                name = _expect(stack.pop(), Global).name
                if name not in HARMLESS:
                    raise object_refusal(name.replace(" ", "."))
                stack.append(None)
            case "BUILD":  # the attributes of an OrderedDict, a Parameter, or something harmless
                stack.pop()
            case "EMPTY_SET":
                stack.append(None)
            case "ADDITEMS":
                since_mark()
            case "FROZENSET":
                since_mark()
                stack.append(None)
            case "BINBYTES" | "SHORT_BINBYTES":
                stack.append(None)
            case name:
                raise object_refusal(name)
    raise EOFError("its pickle has no end")


def _expect(value: Any, kind: type[T]) -> T:
    """`value`, which must be of exactly this type. Raises TypeError."""
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} stands for a {kind.__name__} in its pickle")
    return value


def _set_items(target: dict[str, Any], items: list[Any]) -> None:
    """Add keys and values, which alternate in `items`. Keys become text."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # An attacker cannot choose the hashes of text. Numbers can all have one hash, and the hash of nested
        # tuples can take forever.
        name = str(key) if isinstance(key, str | int | float | None) else type(key).__name__
        target[name] = value
