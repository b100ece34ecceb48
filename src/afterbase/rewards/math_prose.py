r"""A number inside words, read only where the reference is a number: "Sara has 5 apples left", "five hours", "2 and 1/2", "base 7"."""

from __future__ import annotations

import re

from afterbase.rewards.math_units import is_odd
from afterbase.rewards.math_words import english_number, flat

MAX_WORDS = 14

_NUMBER = re.compile(r"(?<![\w.\\^_])-?(?:\\dollar\s*)?\d+(?:,\d{3})*(?:\.\d+)?%?(?![\w^_/*!])")
_PLAIN_WORD = re.compile(r"[A-Za-z][a-z']+[,.]?|[AIa]")
_MIXED = re.compile(
    r"(-?\d{1,9})\s+(?:\\text\s*\{\s*)?and\s*\}?\s*(?:\\text\s*\{\s*)?(?:a\s+)?(?:(\d{1,9})\s*/\s*(\d{1,9})|\\frac\s*\{(\d{1,9})\}\s*\{(\d{1,9})\})\s*\}?"
)
_HEDGES = frozenset({"think", "guess", "believe", "suppose", "hope", "of", "try", "tried", "problem", "step", "question", "part", "if"})
_LINKS = frozenset({"is", "are", "to", "has", "base", "and", "equals", "only"})


def number_in_words(text: str) -> str | None:
    """The one number of a tidied answer with the word behind it, e.g. "5 apples"; None when there are more, or words that change it."""
    if match := _MIXED.fullmatch(text.strip()):
        above, below = match[2] or match[4], match[3] or match[5]
        return f"{match[1]} {above}/{below}" if int(above) < int(below) else None
    bare = flat(text)
    found = list(_NUMBER.finditer(bare))
    if len(found) != 1:
        return _spelled_out(bare) if not found else None
    before, after = bare[: found[0].start()].split(), bare[found[0].end() :].split()
    words = [*before, *after]
    if not words or len(words) > MAX_WORDS or not all(_PLAIN_WORD.fullmatch(word) for word in words) or _changes(words):
        return None
    unit = after[0].strip(",.") if after and len(after[0]) > 2 else ""
    return f"{found[0][0]} {unit}".strip()


def _spelled_out(bare: str) -> str | None:
    """ "five hours" as "5 hours"."""
    words = bare.split()
    if not 2 <= len(words) <= 5 or not all(word.replace("-", "").isalpha() and word.isascii() for word in words):
        return None
    value = english_number(" ".join(words[:-1]))
    if value is None or is_odd(words[-1]) or english_number(words[-1]) is not None or len(words[-1]) < 3:
        return None
    return f"{value} {words[-1]}"


def _changes(words: list[str]) -> bool:
    """Whether a word may change the number, or is one itself."""
    plain = [word.strip(",.").lower() for word in words]
    return any(
        word not in _LINKS and (is_odd(word) or word in _HEDGES or (word != "a" and english_number(word) is not None)) for word in plain
    ) or (any("," in word for word in words))
