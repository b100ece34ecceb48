"""What an answer can be: a value, several of them, a relation, a set of reals, a matrix, a ratio, a time, words, or something opaque."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from afterbase.rewards.math_region import Region
from afterbase.rewards.math_tree import Tree
from afterbase.rewards.math_units import Unit


@dataclass(frozen=True, slots=True)
class Value:
    r"""One expression, e.g. of "3.50 \text{ cm}" Value(("num", 7/2), "3.50", unit=cm, places=2, digits=3)."""

    tree: Tree
    """The expression without its unit."""
    text: str
    """As written, without its unit."""
    unit: Unit | None = None
    """None when none is written."""
    places: int | None = None
    """Digits behind the point of a plain decimal, so perhaps a rounded one; None for any other expression."""
    digits: int = 0
    """Significant digits of a plain decimal."""


@dataclass(frozen=True, slots=True)
class Items:
    """Several things, e.g. of "(1, 2)" Items("tuple", ...)."""

    how: Literal["list", "or", "set", "tuple", "interval"]
    """Bare with commas or "and", alternatives, in braces, in brackets; "interval" when the brackets are of two sorts."""
    items: tuple[Kind, ...]
    """In the order written."""
    brackets: str = ""
    """The two signs around it, e.g. "[)"."""


@dataclass(frozen=True, slots=True)
class Chain:
    r"""Sides between relation signs, e.g. of "x = 2 + 3 = 5" Chain(("=", "="), ...)."""

    signs: tuple[str, ...]
    r"""=, \approx, <, >, \le, \ge or \ne."""
    sides: tuple[Kind, ...]
    """One more than signs."""
    names: tuple[str, ...]
    """The sides as written, without spaces."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple[Kind, ...], ...]
    """From the top."""
    text: str = ""
    """As written, for computer algebra."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Terms between colons, e.g. 3:1."""

    terms: tuple[Value, ...]
    """From the left."""


@dataclass(frozen=True, slots=True)
class Based:
    """A number written in a base that it names, e.g. 52_8."""

    digits: str
    """As written, upper case, without zeros in front."""
    base: int
    """From 2 on."""


@dataclass(frozen=True, slots=True)
class Residue:
    r"""A residue class, e.g. of "x \equiv 3 \pmod 7" Residue(3, 7, "x")."""

    value: int
    """As written, perhaps not reduced."""
    modulus: int
    """From 2 on."""
    name: str = ""
    """What is congruent to it; "" when unsaid."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time of day or a date, e.g. Moment("time", (15, 30, 0), "pm") of "3:30 PM"."""

    what: Literal["time", "date"]
    """Which of the two."""
    parts: tuple[int, ...]
    """Hour (0-23 when the half of the day is known), minute, second; or year (0 when unsaid), month, day."""
    half: str = ""
    """am, pm, or "" when unsaid."""


@dataclass(frozen=True, slots=True)
class Words:
    """Text, e.g. Words("no solution")."""

    text: str
    """In its normal form (`math_words.normal`)."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """Mathematics that only computer algebra may be able to read, e.g. an integral."""

    text: str
    """As written, tidied."""


Kind = Value | Items | Chain | Region | Matrix | Ratio | Based | Residue | Moment | Words | Opaque
