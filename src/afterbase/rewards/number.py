r"""Numbers as people write them ("1,200", "$3.50", "12\%", "\frac{3}{4}", "18 eggs"), read exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 200  # characters; a longer number is no answer that anybody grades

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(
    rf"(?P<sign>[+-]?)\s*[$£€¥]?\s*(?P<inner_sign>[+-]?)\s*"
    rf"(?:(?P<whole>{_DIGITS})\s*\\frac\{{(?P<over>[0-9]+)\}}\{{(?P<under>[0-9]+)\}}"
    rf"|(?P<whole2>{_DIGITS})\s+(?P<over2>[0-9]+)/(?P<under2>[0-9]+)"
    rf"|\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}"
    rf"|(?P<top2>{_DECIMAL})\s*/\s*(?P<bottom2>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL}))"
    rf"(?P<rest>.*)",
)
_WRAPPED_WORDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z]{2,}(?:[ -][A-Za-z]{1,})*|[a-z]|[㐀-鿿]{1,6}")

_UNIT_TAIL = re.compile(
    r"(?P<number>.*[^\s\\])\s*\\(?:text|mathrm|mbox)\s*\{\s*(?P<words>[A-Za-z][A-Za-z. -]*)\}(?:\^\{?[23]\}?)?\.?", re.DOTALL
)
_BARE_UNIT_TAIL = re.compile(r"(?P<number>.*[0-9})\]])\s+(?P<words>[A-Za-z]{2,})(?:\^\{?[23]\}?)?", re.DOTALL)

SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "百": 100, "千": 1000}
SCALES |= {"万": 10**4, "亿": 10**8}
# Words after a number that make it another number, a choice or a guess.
_ODD_WORDS = """
    and or not about approximately roughly to over half halves third thirds quarter quarters fifth fifths tenth tenths score squared cubed
    times plus minus pi sqrt root sin cos tan log ln exp mod factorial degree degrees deg radians rad am pm a.m. p.m. noon
"""
_NOT_UNITS = frozenset(_ODD_WORDS.split())
# Only units whose confusion is certain: any other pair is left alone, since "5 apples" and "5 fruits" may mean the same.
_UNITS = {
    "millimeter": "mm millimetre", "centimeter": "cm centimetre", "meter": "m metre", "kilometer": "km kilometre",
    "inch": "in inche", "foot": "ft feet", "yard": "yd", "mile": "mi", "gram": "g", "kilogram": "kg", "pound": "lb", "ounce": "oz",
    "second": "s sec", "minute": "min", "hour": "h hr", "day": "", "week": "", "month": "", "year": "yr",
    "milliliter": "ml millilitre", "liter": "l litre", "cent": "", "dollar": "",
}  # fmt: skip
_KNOWN_UNITS = {alias: unit for unit, aliases in _UNITS.items() for alias in [unit, *aliases.split()]}


@dataclass(frozen=True, slots=True)
class Number:
    """A number read from text, e.g. read("12%") is Number(Fraction(12, 100), Fraction(12), percent=True)."""

    value: Fraction
    """What it is worth: a percent sign divides by 100."""
    shown: Fraction
    """What is written before the percent sign."""
    percent: bool = False
    """Whether a percent sign or the word stands behind it."""
    unit: str = ""
    """The words behind it, lower case; "" when it stands alone."""
    decimal: bool = False
    """Whether it is written with a decimal point, so perhaps rounded."""


def read(text: str) -> Number | None:
    """The number that a tidied answer is, None when it is anything more than one plain number with at most a unit behind it."""
    if len(text) > MAX_LENGTH or not (match := _PLAIN.fullmatch(text)):
        return None
    shown = _value(match)
    rest = _rest(match["rest"])
    if shown is None or rest is None:
        return None
    percent, scale, unit = rest
    written_decimal = any("." in (match[name] or "") for name in ("decimal", "top", "bottom", "top2", "bottom2"))
    return Number(shown * scale / (100 if percent else 1), shown * scale, percent, unit, written_decimal)


def units_differ(one: Number, other: Number) -> bool:
    """Whether both carry a unit that everybody knows and the units are not the same, such as feet and inches."""
    first, second = _KNOWN_UNITS.get(_singular(one.unit)), _KNOWN_UNITS.get(_singular(other.unit))
    return first is not None and second is not None and first != second


def without_unit(text: str) -> str:
    r"""The same without a unit at its end, e.g. without_unit(r"6\sqrt2\text{ cm}^2") is r"6\sqrt2"; bare words must be known units.

    Our own, since Math-Verify's list of units has "t", "h", "c" and "ab" in it and so takes 5t for 5.
    """
    if (match := _UNIT_TAIL.fullmatch(text)) and not _odd(match["words"].lower().split()):
        return match["number"]
    if (match := _BARE_UNIT_TAIL.fullmatch(text)) and _singular(match["words"].lower()) in _KNOWN_UNITS:
        return match["number"]
    return text


def repeats(value: Fraction) -> bool:
    """Whether its decimal form never ends, e.g. 1/3: such a number can only be rounded."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest != 1


def _value(match: re.Match[str]) -> Fraction | None:
    """The written number with its sign; None for a zero under the line."""
    whole, over, under = (match[name] or match[f"{name}2"] for name in ("whole", "over", "under"))
    top, bottom = match["top"] or match["top2"], match["bottom"] or match["bottom2"]
    if whole:
        size = _decimal(whole) + Fraction(int(over), int(under)) if int(under) else None
    elif top:
        size = _decimal(top) / _decimal(bottom) if _decimal(bottom) else None
    else:
        size = _decimal(match["decimal"])
    negative = (match["sign"] == "-") != (match["inner_sign"] == "-")
    return -size if size is not None and negative else size


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))


def _rest(text: str) -> tuple[bool, int, str] | None:
    """What stands behind a number as (percent, scale, unit); None when it makes it something else than that number."""
    words = " ".join(_WRAPPED_WORDS.sub(r" \1 ", text).split()).removesuffix("$").strip()
    if words.lower() in ("%", "percent", "per cent", "percentage points"):
        return True, 1, ""
    if not words:
        return False, 1, ""
    if not _WORDS.fullmatch(words) or _looks_like_a_product(text, words):
        return None
    first, *others = words.lower().split()
    if scale := SCALES.get(first.removesuffix("s")) or SCALES.get(first[0]):
        return None if _odd(others) else (False, scale, " ".join(others))
    return None if _odd([first, *others]) else (False, 1, words.lower())


def _looks_like_a_product(text: str, words: str) -> bool:
    r"""Whether bare letters behind a number may be variables: "5ab" and "5 m" are, "5 eggs", "5 cm" and "5\text{ m}" are not."""
    first = words.split()[0]
    if text.lstrip().startswith("\\") or not first.isascii():
        return False
    known = len(first) > 1 and _singular(first) in _KNOWN_UNITS
    return not known and not (text.startswith(" ") and len(first) > 2)


def _odd(words: list[str]) -> bool:
    """Whether any word may change the number: arithmetic, a scale, a choice."""
    pieces = [piece.rstrip(",") for word in words for piece in word.split("-")]
    return any(piece in _NOT_UNITS or piece.removesuffix("s") in SCALES for piece in pieces)


def _singular(unit: str) -> str:
    return unit if unit in _KNOWN_UNITS else unit.removesuffix("s")
