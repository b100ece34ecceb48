r"""Small forms around an answer: a word in its clause ("It will be a Thursday"), a residue ("3 \pmod 7"), a condition, parallel lines."""

from __future__ import annotations

import re

from afterbase.rewards.math_kinds import Residue
from afterbase.rewards.math_words import SPECIAL, flat, normal

MAX_CLAUSE = 12  # words

_CLAUSE = re.compile(r"[A-Za-z' ,-]{1,160}")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_SMALL_WORDS = "it this that he she they the a an is are was were be will must has have on"
_SMALL = frozenset(_SMALL_WORDS.split())
_NOUN_WORDS = "function number triangle sequence series graph group matrix statement answer day limit"
_NOUNS = frozenset(_NOUN_WORDS.split())
# Words that turn a clause into something else than the word in it, whether or not the question has them.
_TURN_WORDS = """
    not no never neither nor or and but if unless except either maybe perhaps probably than before after until from without of
    opposite next last previous false untrue cannot less more least most"""
_TURNS = frozenset(_TURN_WORDS.split())
_OFFERED = re.compile(r"[A-Za-z-]+(?=\s*,|\s+or\b)|(?:(?<=\bor )|(?<=\bor a )|(?<=\bor an ))[A-Za-z-]+")
_RESIDUE = re.compile(
    r"(?:(\\?[A-Za-z](?:_\{?\w\}?)?)\s*\\equiv\s*)?(-?\d{1,18})\s*\(?\s*(?:\\text\s*\{\s*mod\s*\}|\\[pb]?mod|mod(?:ulo)?(?![a-z]))"
    r"\s*\(?\s*\{?\s*(\d{1,18})\s*\}?\s*\)?"
)
_PARAMETER = re.compile(
    r"(.*\S)\s*\(\s*(?:\\text\s*\{\s*)?(?:where|with|for(?: all| any)?)?\s*\}?\s*([A-Za-z])\s*\\in\s*"
    r"(?:\\mathbb\s*\{?\s*[ZN]\s*\}?|[ZN])\s*(?:[\^_]\s*\{?\s*[+*]\s*\}?)?\s*\)"
)
_ARGUMENT = re.compile(
    r"([A-Za-z]\(([A-Za-z])\)\s*=.*?\S)[\s,]*\(?\s*(?:\\text\s*\{\s*)?(?:for all|for every|\\forall)\s*(?:real\s*)?\}?\s*"
    r"\2\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?)?\s*\)?"
)
_MUTUAL = re.compile(r"(?P<one>[A-Za-z]\w*)\s*(?P<sign>\\parallel|\\perp)\s*(?P<other>[A-Za-z]\w*)")


def says(answer: str, word: str, question: str) -> bool:
    """Whether a clause gives one word and else only repeats the question, e.g. "The function is odd" the word "odd".

    It does not where it denies, compares or offers alternatives, or names somebody or something else that the question names.
    """
    bare = flat(answer).strip(" .!")
    said = _WORD.findall(bare)
    if not _CLAUSE.fullmatch(bare) or len(said) > MAX_CLAUSE or not word.isalpha():
        return False
    if word in ("yes", "no"):
        return _affirms(bare, word, question)
    others = [one for one in said if normal(one) != word]
    return "," not in bare and 0 < len(others) == len(said) - 1 and _adds_nothing(others, question)


def _affirms(bare: str, word: str, question: str) -> bool:
    """Yes with a clause that affirms, no with one that denies."""
    head, comma, clause = bare.partition(",")
    rest = [one for one in _WORD.findall(clause) if not (word == "no" and one == "not")]
    denied = len(_WORD.findall(clause)) - len(rest)
    said = normal(head) == word and head.strip().lower() in ("yes", "no", "true", "false")
    return said and bool(comma and rest) and "," not in clause and denied == (word == "no") and _adds_nothing(rest, question)


def _adds_nothing(words: list[str], question: str) -> bool:
    asked = set(_WORD.findall(question))
    offered = {one.casefold() for one in _OFFERED.findall(question)}
    return all(_is_free(word.casefold(), asked, offered) for word in words)


def _is_free(word: str, asked: set[str], offered: set[str]) -> bool:
    """Whether a word changes nothing: a small one, or one of the question's that is no name and nothing to choose from."""
    if word in _TURNS or word in offered or word.endswith("n't") or normal(word) in SPECIAL:
        return False
    return word in _SMALL or word in _NOUNS or word in asked


def residue(text: str) -> Residue | None:
    r"""A residue, e.g. of "x \equiv 3 \pmod 7" Residue(3, 7, "x"); None for anything else."""
    match = _RESIDUE.fullmatch(text)
    return Residue(int(match[2]), int(match[3]), match[1] or "") if match and int(match[3]) > 1 else None


def without_condition(text: str) -> str:
    r"""An answer without the range of its parameter behind it: "k\pi (k \in \mathbb{Z})", "f(x) = 2x for all x"."""
    match = _PARAMETER.fullmatch(text)
    if match and re.search(rf"(?<![A-Za-z\\]){match[2]}|(?<=[a-z]){match[2]}|_\{{?{match[2]}", match[1]):
        return match[1]
    return match[1] if (match := _ARGUMENT.fullmatch(text)) else text


def mutual(text: str) -> str | None:
    r"""Parallel and perpendicular lines in one order, e.g. of "DC \parallel AB" "AB \parallel CD"; None for anything else."""
    match = _MUTUAL.fullmatch(text)
    if not match:
        return None
    lines = sorted("".join(sorted(line)) if re.fullmatch("[A-Z]{2}", line) else line for line in (match["one"], match["other"]))
    return f" {match['sign']} ".join(lines)
