"""Multiple choice: which letters an answer names, and what the question says behind each letter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from afterbase.rewards.math_surface import tidy
from afterbase.rewards.math_words import flat

_LETTER = r"[A-J]"
_NAMED = re.compile(
    rf"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer|选项?|故选)\s*(?:is|:)?\s*)?"
    rf"(?:\(({_LETTER})\)|\[({_LETTER})\]|({_LETTER}))(?:\s*[.:)、项]\s*|\s+|$)(.*)",
    re.IGNORECASE | re.DOTALL,
)
_LISTED = re.compile(rf"\(?{_LETTER}\)?(?:(?:\s*(?:,|;|and|和|、|&))+\s*\(?{_LETTER}\)?)+")
_TOGETHER = re.compile(rf"{_LETTER}{{2,8}}")
_LABELS = (
    re.compile(rf"\(({_LETTER})\)(?!\s*(?:=|and|or|,))"),
    re.compile(rf"(?:^|(?<=[\n\s$]))({_LETTER})\s*[.:)、．：](?!\w*=)", re.MULTILINE),
)
_TRIM = re.compile(r"^[\s}~]+|(?:\\qquad|\\quad|\\textbf\s*\{|\\text\s*\{|\\mathrm\s*\{|\\hspace\{[^{}]*\}|\\\\|\\ |[\s;,~&$]|\*\*|\()+$")


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice, e.g. of "B) 12" Choice("B", "12")."""

    letter: str
    """Upper case."""
    rest: str
    """What is written behind it; "" when the letter stands alone."""


def choice(text: str, offered: bool = False) -> Choice | None:
    """The one letter that a tidied answer names, with what it says behind it; None when it names none in this way.

    A bare small letter is a variable, unless the question has `offered` letters.
    """
    bare = flat(text)
    match = _NAMED.fullmatch(bare)
    if not match:
        return None
    letter = next(group for group in match.groups()[:3] if group)
    rest = match[4].strip()
    alone = bare[match.start() : match.start(4)].strip() if rest else bare
    if rest and not re.search(r"[.:)\]、项]$", alone):  # "B 12" may be anything
        return None
    if letter.islower() and not offered and (not re.search(r"[(\[]|option|choice|answer", alone, re.IGNORECASE)):
        return None
    return Choice(letter.upper(), rest)


def letters(text: str, together: bool) -> frozenset[str] | None:
    """Several letters of one answer, e.g. of "A, C"; written without commas ("AC") only where `together` says that they may be."""
    bare = flat(text)
    if _LISTED.fullmatch(bare):
        return frozenset(re.findall(_LETTER, bare))
    if together and _TOGETHER.fullmatch(bare) and len(set(bare)) == len(bare):
        return frozenset(bare)
    return None


@lru_cache(maxsize=1024)
def options(question: str) -> dict[str, str]:
    """What the question offers behind each letter, tidied; empty when it is no multiple choice."""
    for label in _LABELS:
        found = list(label.finditer(question))
        begin = next((i for i in range(len(found) - 1, -1, -1) if found[i][1] == "A"), None)
        if begin is None:
            continue
        run = [found[begin]]
        for match in found[begin + 1 :]:
            if ord(match[1]) == ord(run[-1][1]) + 1:
                run.append(match)
        if len(run) >= 2:
            ends = [match.start() for match in run[1:]] + [_last_end(question, run[-1].end())]
            return {match[1]: tidy(_trimmed(question[match.end() : end])) for match, end in zip(run, ends, strict=True)}
    return {}


def _last_end(question: str, start: int) -> int:
    """The last option ends with its line."""
    line = question.find("\n", start + len(question[start:]) - len(question[start:].lstrip()))
    return len(question) if line < 0 else line


def _trimmed(option: str) -> str:
    option = _TRIM.sub("", _TRIM.sub("", option))
    return option + "$" if option.count("$") % 2 and option.startswith("$") else option
