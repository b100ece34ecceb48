"""Python values as JSON and back, so that nothing but plain data crosses between a program and what judges it.

This file also goes into the sandbox and imports nothing of the package. What the program's side sends is built anew on the other side out
of exact built-in types: an object that claims to equal everything arrives as the list, number or text below it, or as a handle.
"""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

EXACT = 1 << 53  # whole numbers up to here are the same in every JSON reader; longer ones go as hexadecimal, which costs linear time
MAX_ITEMS = 100_000  # of an iterator, which may have no end

_VIEWS = {"keys": type({}.keys()), "values": type({}.values()), "items": type({}.items())}
_SERIES = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}


def encode(value: Any, handle: Callable[[Any], int]) -> Any:
    """A value as JSON data; `handle` numbers an object that is no data, such as a function or an instance of a class."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is type and getattr(builtins, value.__name__, None) is value:  # tests ask for "all items that are int"
        return {"builtin": value.__name__}
    if isinstance(value, int | float | complex | str | bytes | bytearray | Decimal | Fraction):
        return _encode_single(value)
    if isinstance(value, list):
        return [encode(item, handle) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encode(key, handle), encode(item, handle)] for key, item in dict.items(value)]}
    return _encode_many(value, handle)


def decode(data: Any, remote: Callable[[dict[str, Any]], Any]) -> Any:
    """The value that JSON data stands for; `remote` makes the stand-in of an object; ValueError or TypeError for anything else."""
    if isinstance(data, list):
        return [decode(item, remote) for item in data]
    if not isinstance(data, dict):
        return data
    if "handle" in data:
        return remote(data)
    ((kind, inner),) = data.items()
    if kind == "dict":
        return {decode(key, remote): decode(item, remote) for key, item in inner}
    if kind in _SERIES:
        return _SERIES[kind](decode(item, remote) for item in inner)
    return _decode_iterable(kind, inner, remote) if kind in (*_VIEWS, "iterator", "range") else _decode_single(kind, inner)


def _encode_single(value: Any) -> Any:
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -EXACT < number < EXACT else {"int": hex(number)}
    if isinstance(value, float):
        number = float.__float__(value)
        return number if number - number == 0 else {"float": repr(number)}  # JSON knows no NaN and no infinity
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return {"complex": [repr(value.real), repr(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": value.hex()}
    return {"decimal" if isinstance(value, Decimal) else "fraction": str(value)}


def _encode_many(value: Any, handle: Callable[[Any], int]) -> Any:
    for name, kind in _SERIES.items():
        if isinstance(value, kind):
            return {name: [encode(item, handle) for item in kind.__iter__(value)]}
    if isinstance(value, range):
        return {"range": [encode(part, handle) for part in (value.start, value.stop, value.step)]}
    for name, kind in _VIEWS.items():
        if isinstance(value, kind):
            return {name: [encode(item, handle) for item in value]}
    if hasattr(type(value), "__next__"):
        return {"iterator": [encode(item, handle) for item in islice(value, MAX_ITEMS)]}
    return {"handle": handle(value), "type": type(value).__name__}


def _decode_iterable(kind: str, inner: Any, remote: Callable[[dict[str, Any]], Any]) -> Any:
    items = [decode(item, remote) for item in inner]
    if kind == "range":
        return range(*items)
    if kind == "iterator":
        return iter(items)
    if kind == "keys":
        return dict.fromkeys(items).keys()
    return dict(items).items() if kind == "items" else dict(enumerate(items)).values()


def _decode_single(kind: str, inner: Any) -> Any:
    if kind == "int":
        return int(inner, 16)
    if kind == "float":
        return float(inner)
    if kind == "complex":
        return complex(float(inner[0]), float(inner[1]))
    if kind in ("bytes", "bytearray"):
        return bytes.fromhex(inner) if kind == "bytes" else bytearray.fromhex(inner)
    if kind == "builtin" and type(found := getattr(builtins, inner)) is type and found.__name__ == inner:
        return found
    if kind in ("decimal", "fraction"):
        return Decimal(inner) if kind == "decimal" else Fraction(inner)
    raise ValueError(f"no value is called {kind!r}")
