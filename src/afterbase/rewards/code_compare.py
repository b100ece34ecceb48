"""Whether a program's output is the expected one: white space at line ends and rounding are forgiven, missing or extra output never.

What a program gave is only ever read here as text and as JSON data, compared item by item: no set or dict is built out of its values,
whose hashes it could choose so that building takes forever.
"""

from __future__ import annotations

import json
import math
import re
from itertools import zip_longest
from typing import Any

SHOWN = 80  # characters of a line, an input or a value in a note

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_ABSENT = object()


def output_fault(expected: str, got: str, tolerance: float) -> str:
    """Where two outputs differ, in words; "" when they do not. `tolerance`: of numbers that are expected with a decimal point, relative
    above 1 and absolute below; 0 compares text only."""
    for number, (wanted, came) in enumerate(zip_longest(_lines(expected), _lines(got)), 1):
        if wanted is None:
            return f"line {number}: {shorten(came or '')!r} came after the end of the expected output"
        if came is None:
            return f"line {number}: expected {shorten(wanted)!r}, the output had ended"
        if wanted != came and not _close_line(wanted, came, tolerance):
            return f"line {number}: expected {shorten(wanted)!r}, got {shorten(came)!r}"
    return ""


def same_value(expected: Any, data: Any, tolerance: float) -> bool:
    """Whether a value that came as plain data (see `code_plain`) is the one that a JSON value stands for; a tuple may stand for a list."""
    if isinstance(expected, list):
        items = data.get("tuple") if isinstance(data, dict) else data
        return isinstance(items, list) and len(items) == len(expected) and all(map(same_value, expected, items, [tolerance] * len(items)))
    if isinstance(expected, dict):
        return isinstance(data, dict) and "dict" in data and _same_dict(expected, data["dict"], tolerance)
    number = _number(data)
    if isinstance(expected, int | float) and number is not None:
        return expected == number or _rounded(expected, number, tolerance)
    return type(data) is type(expected) and data == expected


def shorten(value: Any) -> str:
    """The value in one short line."""
    try:
        text = " ".join((value if isinstance(value, str) else repr(value))[: 4 * SHOWN].split())
    except (RecursionError, ValueError):  # too deep, or a whole number of more digits than Python writes
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _close_line(wanted: str, came: str, tolerance: float) -> bool:
    """Whether two lines differ in the rounding of their numbers only."""
    pairs = list(zip_longest(re.split(r"(\s+)", wanted), re.split(r"(\s+)", came), fillvalue=""))
    return tolerance > 0 and all(one == other or _close_words(one, other, tolerance) for one, other in pairs)


def _close_words(wanted: str, came: str, tolerance: float) -> bool:
    if _WHOLE.fullmatch(wanted) or not (_NUMBER.fullmatch(wanted) and _NUMBER.fullmatch(came)):
        return False
    return _close(float(wanted), float(came), tolerance)


def _rounded(wanted: float, came: float, tolerance: float) -> bool:
    """Whether two numbers differ by rounding; what is expected whole may not be off by more the larger it is: 735345.5 is no 735345."""
    if isinstance(wanted, float):
        return _close(wanted, came, tolerance)
    return isinstance(came, float) and _near(wanted, came, tolerance)


def _close(wanted: float, came: float, tolerance: float) -> bool:
    return _near(wanted, came, tolerance * max(1.0, abs(wanted))) or (wanted != wanted and came != came)


def _near(wanted: float, came: float, reach: float) -> bool:
    try:
        return abs(wanted - came) <= reach < math.inf  # every number is within reach of infinity
    except OverflowError:  # a whole number beyond every float
        return False


def _number(data: Any) -> int | float | None:
    if isinstance(data, int | float):
        return data
    if isinstance(data, dict) and len(data) == 1:
        ((kind, text),) = data.items()
        if isinstance(text, str) and kind == "int" and re.fullmatch(r"-?0x[0-9a-f]+", text):
            return int(text, 16)
        if isinstance(text, str) and kind == "float" and text in ("nan", "inf", "-inf"):
            return float(text)
    return None


def _same_dict(expected: dict[str, Any], pairs: Any, tolerance: float) -> bool:
    """JSON knows texts as keys only, so the program's other keys are taken as JSON would write them."""
    if not isinstance(pairs, list) or len(pairs) != len(expected) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return False
    seen = set()
    for key, value in pairs:
        if isinstance(key, list | dict):
            return False
        name = key if isinstance(key, str) else json.dumps(key)
        if not same_value(expected.get(name, _ABSENT), value, tolerance):
            return False
        seen.add(name)
    return len(seen) == len(expected)
