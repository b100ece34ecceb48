r"""A text without what belongs to no language: code, formulas, links and tags, found in one pass over their delimiters."""

from __future__ import annotations

import re
from collections import defaultdict

_MARKS = re.compile(r"```|`|\$\$|\\\\|\\\$|\$|\\\[|\\\]|\\\(|\\\)|\\begin\{[a-zA-Z]{1,20}\*?\}|\\end\{[a-zA-Z]{1,20}\*?\}")
_CLOSING = {"```": "```", "`": "`", "$$": "$$", "$": "$", r"\[": r"\]", r"\(": r"\)"}
_LONGEST = {"`": 300, "$": 500, r"\(": 1000}  # characters; what is opened and closed farther apart is prose between two stray marks
_FARTHEST = 5000
_REST = re.compile(r"\\[A-Za-z]+(?:\s*\{[^{}\n]*\})*|https?://\S+|</?[a-z]+>")
_PROSE = 40  # letters; code with more of them, most outside ASCII, is prose in disguise


def without_notation(text: str) -> str:
    """The text with spaces for code, formulas, LaTeX commands, links and tags.

    A dollar opens a formula only where no space follows and closes one only where none precedes and no digit follows, so "costs $5
    and $6" stays prose. What is never closed is no code and no formula, so that a stray mark hides nothing.
    """
    marks = list(_MARKS.finditer(text))
    pieces, here = [], 0
    for mark, closing in zip(marks, _closings(text, marks), strict=True):
        if closing is None or mark.start() < here:
            continue
        inside = text[mark.end() : closing.start()]
        if _is_notation(mark.group(), inside):
            pieces.append(text[here : mark.start()])
            here = closing.end()
    return _REST.sub(" ", " ".join([*pieces, text[here:]]))


def _closings(text: str, marks: list[re.Match[str]]) -> list[re.Match[str] | None]:
    """For each mark the one that closes it, if it opens anything; from the back, so that each is found at once."""
    nearest: defaultdict[str, re.Match[str] | None] = defaultdict(lambda: None)
    closings: list[re.Match[str] | None] = []
    for mark in reversed(marks):
        kind = mark.group()
        wanted = kind.replace("begin", "end", 1) if kind.startswith(r"\begin") else _CLOSING.get(kind, "")
        opens = kind != "$" or not text[mark.end() : mark.end() + 1].isspace()
        closings.append(nearest[wanted] if wanted and opens else None)
        nearest[kind] = mark if kind != "$" or _closes(text, mark) else None  # what opens another formula closes none before it
    return closings[::-1]


def _closes(text: str, dollar: re.Match[str]) -> bool:
    before, after = text[dollar.start() - 1 : dollar.start()], text[dollar.end() : dollar.end() + 1]
    return bool(before) and not before.isspace() and not after.isdecimal()


def _is_notation(opening: str, inside: str) -> bool:
    if opening in ("`", "$") and "\n" in inside:
        return False
    if opening != "```" and len(inside) > _LONGEST.get(opening, _FARTHEST):
        return False
    if len(inside) < _PROSE or inside.isascii():
        return True
    letters = [letter for letter in inside if letter.isalpha()]
    return len(letters) < _PROSE or 2 * sum(letter.isascii() for letter in letters) >= len(letters)
